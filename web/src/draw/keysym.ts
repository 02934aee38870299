// Text as keys of X11, for guests that know no clipboard (https://www.x.org/releases/X11R7.7/doc/xproto/x11protocol.html#keysym_encoding).

const NAMED: Record<string, number> = { "\n": 0xff0d, "\r": 0xff0d, "\t": 0xff09, "\b": 0xff08 };

/** One keysym a character: Latin-1 as it is, others by their code point. Characters that no key writes are left out. */
export function keysyms(text: string): number[] {
  return [...text.replaceAll("\r\n", "\n")].flatMap((character) => {
    const named = NAMED[character];
    if (named !== undefined) return [named];
    const code = character.codePointAt(0)!;
    if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return [];
    return [code <= 0xff ? code : 0x01000000 | code];
  });
}
