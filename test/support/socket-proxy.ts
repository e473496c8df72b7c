// Stands between clients and a PostgreSQL server on a Unix socket, and loses what it is told to lose.
import { connect, createServer, type Server, type Socket } from "node:net";

/** What becomes of the next COMMIT: it gets lost, its answer does, or the server gets it when the client is long gone. */
export type Loss = "request" | "answer" | "late";

const commit = Buffer.from("commit\0");

export class SocketProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #loss: Loss | undefined;
  #refuses = false;
  losses = 0;

  private constructor(path: string, to: string) {
    this.#server = createServer((client) => {
      if (this.#refuses) client.destroy();
      else this.#forward(client, connect(to));
    }).listen(path);
  }

  /** Listens on the socket `path`, which the system has to be able to make. */
  static async between(path: string, to: string): Promise<SocketProxy> {
    const proxy = new SocketProxy(path, to);
    await new Promise((resolve) => proxy.#server.once("listening", resolve));
    return proxy;
  }

  loseNext(loss: Loss): void {
    this.#loss = loss;
  }

  /** Nobody is let in any more; who is in stays. */
  refuseNew(): void {
    this.#refuses = true;
  }

  #forward(client: Socket, server: Socket): void {
    let loss: Loss | undefined;
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on("error", () => {});
    }
    client.on("close", () => {
      if (loss !== "late") server.destroy();
    });
    server.on("close", () => client.destroy());
    client.on("data", (bytes) => {
      if (this.#loss && bytes.includes(commit)) {
        loss = this.#loss;
        this.#loss = undefined;
        this.losses++;
        if (loss === "late") {
          client.destroy();
          setTimeout(() => server.end(bytes), 500);
        } else if (loss === "request") server.destroy();
        else server.write(bytes);
      } else server.write(bytes);
    });
    server.on("data", (bytes) => {
      if (loss === "answer") client.destroy();
      else if (!client.destroyed) client.write(bytes);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
