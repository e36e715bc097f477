-- The cache of build steps: for each step, by a key over everything that made it, a snapshot of the machine after it.
create table build_layers (
  key text primary key,
  snapshot_id text not null references snapshots (id),
  -- JSON: environment, user and folder of the next step.
  context text not null check (json_valid(context)),
  size_bytes integer not null check (size_bytes >= 0),
  created_at_ms integer not null,
  used_at_ms integer not null
) strict;
create index layers_of_snapshot on build_layers (snapshot_id);
