/** Web Locks (https://w3c.github.io/web-locks/) for one name space: exclusive, in order, with `signal` and `steal`. */

export class Locks {
  #queues = new Map(); // name → requests, the holder first

  request(name, options, callback) {
    const queue = this.#queues.get(name) ?? [];
    this.#queues.set(name, queue);
    return new Promise((resolve, reject) => {
      const request = { callback, resolve, reject, held: false };
      options.signal?.addEventListener("abort", () => {
        if (request.held || !queue.includes(request)) return;
        queue.splice(queue.indexOf(request), 1);
        reject(new DOMException("given up", "AbortError"));
      });
      if (options.steal) {
        if (queue[0]?.held) queue.shift().reject(new DOMException("stolen", "AbortError"));
        queue.unshift(request);
      } else {
        queue.push(request);
      }
      this.#grant(queue);
    });
  }

  /** What a browser does with the lock of a tab that has crashed. */
  drop(name) {
    const queue = [...this.#queues].find(([known]) => known.includes(name))[1];
    queue.shift();
    this.#grant(queue);
  }

  #grant(queue) {
    const request = queue[0];
    if (!request || request.held) return;
    request.held = true;
    queueMicrotask(async () => {
      const done = (settle) => (value) => {
        settle(value);
        if (queue[0] !== request) return;
        queue.shift();
        this.#grant(queue);
      };
      await Promise.resolve().then(() => request.callback({ name: "lock" })).then(done(request.resolve), done(request.reject));
    });
  }
}
