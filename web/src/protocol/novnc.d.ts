// The part of noVNC's API that is used here: https://github.com/novnc/noVNC/blob/master/docs/API.md
declare module "@novnc/novnc" {
  export default class RFB extends EventTarget {
    constructor(target: HTMLElement, url: string, options?: { wsProtocols?: string[] });
    scaleViewport: boolean;
    background: string;
    focus(): void;
    blur(): void;
    disconnect(): void;
    sendCtrlAltDel(): void;
    /** `keysym` of X11; down and up again when `down` is left out. */
    sendKey(keysym: number, code: string | null, down?: boolean): void;
  }
}
