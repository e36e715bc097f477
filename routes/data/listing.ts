/**
 * A listing is an answer that is one message with many items. It is encoded in pieces while the items come, one piece
 * in a round of the event loop for all listings together, so that a long one holds up no other request. The bytes of
 * one listing are bounded, and so are those that one sandbox and all sandboxes have under way, because a guest decides
 * how long its names are. The limits hold for the encoded bytes.
 */
import {
  create,
  type DescMessage,
  type JsonValue,
  type MessageInitShape,
  type MessageShape,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { DomainError } from "../../src/errors.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { type EncodedAnswer, encodedAnswerKey } from "./connect-adapter.ts";

const maxListingBytes = 16 * 1024 * 1024;
const maxSandboxBytes = 64 * 1024 * 1024;
const maxAllBytes = 256 * 1024 * 1024;
/** The items of one piece, and the bytes after which a piece has enough of them, which may be estimated. */
const pieceItems = 128;
const pieceBytes = 64 * 1024;

/** The bytes that listings hold, of each sandbox and of all. */
const held = new WeakMap<Session, number>();
let allHeld = 0;

/** Resolves in a round of the event loop in which no other piece is encoded. */
let lastTurn: Promise<void> = Promise.resolve();
function nextTurn(): Promise<void> {
  lastTurn = lastTurn.then(() => new Promise((resolve) => setImmediate(resolve)));
  return lastTurn;
}

/** The kind of message: its schema, its list of items, how large an item may be, and what to do about a long one. */
export interface ListingKind<Schema extends DescMessage, Item> {
  readonly schema: Schema;
  readonly field: keyof MessageInitShape<Schema> & string;
  readonly sizeOf: (item: Item) => number;
  readonly advice: string;
}

/**
 * Answers an RPC with a listing of these items. The RPC itself returns an empty message.
 * @throws DomainError `capacity_exhausted` when the listing, or those of the sandbox or of all sandboxes, are too large;
 *   the reason of the signal when the client has left
 */
export async function answerListing<Schema extends DescMessage, Item>(
  context: HandlerContext,
  session: Session,
  kind: ListingKind<Schema, Item>,
  items: AsyncIterable<Item> | Iterable<Item>,
): Promise<void> {
  const isJson = context.requestHeader.get("content-type")?.includes("json") === true;
  const listing = new Listing(session, kind, isJson);
  try {
    let piece: Item[] = [];
    let bytes = 0;
    for await (const item of items) {
      piece.push(item);
      bytes += kind.sizeOf(item);
      if (piece.length < pieceItems && bytes < pieceBytes) continue;
      await nextTurn();
      context.signal.throwIfAborted();
      listing.add(piece);
      piece = [];
      bytes = 0;
    }
    context.signal.throwIfAborted();
    if (piece.length > 0) listing.add(piece);
    context.values.set(encodedAnswerKey, listing.finish());
  } catch (error) {
    listing.release();
    throw error;
  }
}

class Listing<Schema extends DescMessage, Item> implements EncodedAnswer {
  readonly chunks: Uint8Array[] = [];
  byteLength = 0;
  readonly #session: Session;
  readonly #kind: ListingKind<Schema, Item>;
  readonly #isJson: boolean;
  /** The bytes that are counted as held. */
  #heldBytes = 0;

  constructor(session: Session, kind: ListingKind<Schema, Item>, isJson: boolean) {
    this.#session = session;
    this.#kind = kind;
    this.#isJson = isJson;
  }

  /** Encodes these items, which come after all earlier ones. */
  add(items: readonly Item[]): void {
    const { schema, field } = this.#kind;
    const message = create(schema, { [field]: items } as MessageInitShape<Schema>);
    // Messages with a repeated field, one after the other, are the encoding of one message with all of the items.
    this.#push(this.#isJson ? this.#jsonOf(message) : toBinary(schema, message));
  }

  finish(): this {
    if (this.#isJson) this.#push(Buffer.from(this.chunks.length === 0 ? "{}" : "]}"));
    return this;
  }

  release(): void {
    held.set(this.#session, (held.get(this.#session) ?? 0) - this.#heldBytes);
    allHeld -= this.#heldBytes;
    this.#heldBytes = 0;
  }

  #jsonOf(message: MessageShape<Schema>): Uint8Array {
    const { schema, field } = this.#kind;
    const { [field]: list } = toJson(schema, message) as Record<string, JsonValue>;
    const text = JSON.stringify(list).slice(1, -1);
    return Buffer.from(this.chunks.length === 0 ? `{${JSON.stringify(field)}:[${text}` : `,${text}`);
  }

  #push(chunk: Uint8Array): void {
    this.byteLength += chunk.byteLength;
    this.#check(this.byteLength, maxListingBytes, "the listing has", this.#kind.advice);
    const ofSandbox = (held.get(this.#session) ?? 0) + chunk.byteLength;
    this.#check(ofSandbox, maxSandboxBytes, "the sandbox's listings under way have", "ask for fewer at a time");
    this.#check(allHeld + chunk.byteLength, maxAllBytes, "all listings under way have", "try again in a moment");
    held.set(this.#session, ofSandbox);
    allHeld += chunk.byteLength;
    this.#heldBytes += chunk.byteLength;
    this.chunks.push(chunk);
  }

  #check(bytes: number, limit: number, subject: string, advice: string): void {
    if (bytes <= limit) return;
    throw new DomainError("capacity_exhausted", `${subject} over ${limit / 1024 / 1024} MiB: ${advice}`);
  }
}
