-- What the control plane tells of besides sandboxes: what they and their commands did, and further API keys.

-- A line of a sandbox's log. Only the newest of each sandbox are kept: src/ledger/sandbox-logs.ts.
create table sandbox_logs (
  -- Not a foreign key: lines are written in batches, the last of them after the sandbox's end.
  sandbox_id text not null,
  -- Counts up within its sandbox, so that what is too old is a range of the key.
  number integer not null,
  at_ms integer not null,
  level text not null check (level in ('debug', 'info', 'warn', 'error')),
  message text not null,
  fields text not null check (json_valid(fields)), -- JSON: text to text
  primary key (sandbox_id, number)
) strict, without rowid;

-- Keys besides the machine's own, which is in a file. Of each only what recognises it.
create table api_keys (
  id text primary key,
  name text not null,
  sha256 text not null unique,
  -- What clients may show of it: the first and the last characters.
  masked_prefix text not null,
  masked_suffix text not null,
  created_at_ms integer not null,
  last_used_at_ms integer
) strict;
