// A peer: Socket.IO with its Redis streams adapter and connection state recovery.
// node socketio.js REDIS_URL PORT, run in the folder that has the packages. A client of ?user=U hears room U.
"use strict";
const { createRequire } = require("node:module");
const { createServer } = require("node:http");
const load = createRequire(process.cwd() + "/");
const { Server } = load("socket.io");
const { createClient } = load("redis");
const { createAdapter } = load("@socket.io/redis-streams-adapter");

(async () => {
  const redis = createClient({ url: process.argv[2] });
  await redis.connect();
  const http = createServer();
  const io = new Server(http, {
    adapter: createAdapter(redis),
    connectionStateRecovery: {},
    transports: ["websocket"],
  });
  io.on("connection", (socket) => socket.join(socket.handshake.query.user));
  http.listen({ host: "127.0.0.1", port: Number(process.argv[3]), backlog: 4096 }, () =>
    console.log(http.address().port),
  );
})();
