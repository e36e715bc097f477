-- Creates that a client may send again: which request had a key, and the sandbox it made. Forgotten with the sandbox.
create table idempotency_keys (
  key text primary key,
  -- Of what was asked for, hex.
  request_sha256 text not null,
  -- Not a foreign key: its row may be forgotten first, within one transaction.
  sandbox_id text not null
) strict, without rowid;
