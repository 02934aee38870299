// For a library that makes `<style>` elements, behind a policy that lets no element carry style (`style-src 'self'`):
// their text becomes constructed style sheets, which are the script's own and allowed.

/** While `work` runs, the page makes no `<style>`. Gives what takes the sheets away again. */
export function withSheets(work: () => void): () => void {
  const sheets: CSSStyleSheet[] = [];
  const make = (name: string) => Document.prototype.createElement.call(document, name);

  /** Stands where the library's element would; its text is a sheet of the page. */
  function standIn(): HTMLElement {
    const element = make("template");
    const sheet = new CSSStyleSheet();
    sheets.push(sheet);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text) });
    return element;
  }

  const createElement = (name: string) => (name === "style" ? standIn() : make(name));
  Object.defineProperty(document, "createElement", { value: createElement, configurable: true });
  try {
    work();
  } finally {
    Reflect.deleteProperty(document, "createElement");
  }
  return () => (document.adoptedStyleSheets = document.adoptedStyleSheets.filter((sheet) => !sheets.includes(sheet)));
}
