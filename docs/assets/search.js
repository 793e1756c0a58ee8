// Search in pages that are opened from the disk.
//
// Browsers start no Worker for a page at file:, and the theme then hides its search box. Here the
// worker's script runs in a hidden frame, behind the same interface: postMessage in, "message" out.
// Pages that come from a server keep the browser's own Worker.

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.waiting = []; // messages from before the script has listened
      this.inside = frame.contentWindow;
      const script = new URL(url, document.baseURI).href.replaceAll('"', "%22");
      this.inside.document.open();
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside.addEventListener("load", () => {
        for (const data of this.waiting) this.deliver(data);
        this.waiting = null;
      });
      this.inside.document.write(`<script src="${script}"></script>`);
      this.inside.document.close();
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.deliver(data);
    }

    deliver(data) {
      this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }));
    }
  };
}
