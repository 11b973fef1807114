// The time by the server's clock: what it says of when something was is by that one, and a browser's may be off.

export class Clock {
  constructor() {
    this.skew = 0;
    this.isExact = false;
  }

  now() {
    return Date.now() - this.skew;
  }

  /** What the server's clock says now (ms); of more use than the header of an answer, which says the second. */
  told(at) {
    this.skew = Date.now() - at;
    this.isExact = true;
  }

  /** The header Date of an answer. */
  hinted(date) {
    const at = Date.parse(date);
    if (!this.isExact && at) this.skew = Date.now() - at;
  }
}

export const clock = new Clock();
