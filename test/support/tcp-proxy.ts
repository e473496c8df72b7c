// Stands between initiators and a target, and holds back what one of them sends, as a network does that is slow for one.
import { connect, createServer, type Server, type Socket } from "node:net";

const portOf = (url: string): number => Number(/^iscsi:\/\/127\.0\.0\.1:(\d+)\//.exec(url)![1]);

export class TcpProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #holdAfter: number | undefined;
  #held: { readonly to: Socket; readonly bytes: Buffer[] } | undefined;
  #isHolding: (() => void) | undefined;

  readonly #url: string;

  private constructor(url: string) {
    this.#url = url;
    const port = portOf(url);
    this.#server = createServer((client) => this.#forward(client, connect(port, "127.0.0.1"))).listen(
      0,
      "127.0.0.1",
    );
  }

  /** Before a target on loopback. */
  static async to(url: string): Promise<TcpProxy> {
    const proxy = new TcpProxy(url);
    await new Promise((resolve) => proxy.#server.once("listening", resolve));
    return proxy;
  }

  /** By which the target is reached through here. */
  get url(): string {
    const { port } = this.#server.address() as { port: number };
    return this.#url.replace(`:${portOf(this.#url)}/`, `:${port}/`);
  }

  /** Resolves when a connection has sent so many bytes: what it sends from then on is held back. */
  holdAfter(bytes: number): Promise<void> {
    this.#holdAfter = bytes;
    return new Promise((resolve) => {
      this.#isHolding = resolve;
    });
  }

  /** Lets what was held back go on its way, however late it is; returns how many bytes that were. */
  letGo(): number {
    const { to, bytes } = this.#held!;
    this.#held = undefined;
    for (const each of bytes) to.write(each);
    return bytes.reduce((sum, each) => sum + each.length, 0);
  }

  #forward(client: Socket, server: Socket): void {
    let sent = 0;
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        if (this.#held?.to !== other) other.destroy();
      });
    }
    server.on("data", (bytes) => {
      if (!client.destroyed) client.write(bytes);
    });
    client.on("data", (bytes) => {
      sent += bytes.length;
      if (this.#holdAfter !== undefined && sent >= this.#holdAfter) {
        this.#holdAfter = undefined;
        this.#held = { to: server, bytes: [] };
        this.#isHolding?.();
      }
      if (this.#held?.to === server) this.#held.bytes.push(bytes);
      else server.write(bytes);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
