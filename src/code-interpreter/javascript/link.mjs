/** The kernel's side of the link to the front: frames of a length, a kind and a payload over descriptor 3. */
import { writeSync } from "node:fs";
import { Socket } from "node:net";

const descriptor = 3;
const headBytes = 5;
const kinds = { message: 0x4a, line: 0x4c, stdout: 0x4f, stderr: 0x45 };

/** Sends a frame before it returns, so that output is in order and nothing is lost when a cell ends the process. */
export function send(kind, payload) {
  const content = Buffer.from(payload);
  const frame = Buffer.alloc(headBytes + content.length);
  frame.writeUInt32BE(content.length);
  frame[4] = kinds[kind];
  content.copy(frame, headBytes);
  for (let sent = 0; sent < frame.length; ) sent += sendSome(frame, sent);
}

const pause = new Int32Array(new SharedArrayBuffer(4));

function sendSome(frame, sent) {
  try {
    return writeSync(descriptor, frame, sent);
  } catch (error) {
    if (error.code !== "EAGAIN") throw error;
    // The front is busy; the descriptor does not wait by itself, because it is read from as well.
    Atomics.wait(pause, 0, 0, 2);
    return 0;
  }
}

/** Sends a line for the client: ASCII only, as its clients need. */
export function sendLine(value) {
  const json = JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  // The front tells errors from other lines by how they begin.
  send("line", json.replace(/^\{"type":"error"/, '{"type": "error"'));
}

/** Calls `onMessage` for every message of the front; the process ends when the front is gone. */
export function receive(onMessage) {
  const socket = new Socket({ fd: descriptor, readable: true, writable: false });
  let pieces = Buffer.alloc(0);
  socket.on("data", (data) => {
    pieces = pieces.length === 0 ? data : Buffer.concat([pieces, data]);
    while (pieces.length >= headBytes) {
      const end = headBytes + pieces.readUInt32BE();
      if (pieces.length < end) break;
      const payload = pieces.subarray(headBytes, end);
      pieces = pieces.subarray(end);
      onMessage(JSON.parse(payload.toString()));
    }
  });
  const end = () => process.exit(0);
  socket.on("end", end);
  socket.on("error", end);
}
