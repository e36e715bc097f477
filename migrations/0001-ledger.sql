-- The ledger: what exists, what it is given, and what is promised to whom. Times are milliseconds since the epoch.
-- Columns named in comments as JSON are parsed with zod in src/ledger/json-columns.ts.

create table settings (
  key text primary key,
  value text not null
) strict, without rowid;

-- A share of the host. `held` counts against the budgets; `released` is history.
create table reservations (
  id text primary key,
  kind text not null check (kind in ('active', 'warm')),
  state text not null check (state in ('held', 'released')),
  -- Whom an active one is for. Not a foreign key: capacity is reserved before the sandbox's row can name it.
  sandbox_id text,
  vcpu_count integer not null check (vcpu_count > 0),
  memory_mib integer not null check (memory_mib > 0),
  disk_mib integer not null check (disk_mib >= 0),
  created_at_ms integer not null,
  released_at_ms integer,
  check ((state = 'released') = (released_at_ms is not null)),
  check (kind = 'active' or sandbox_id is null)
) strict;
create index held_reservations on reservations (kind) where state = 'held';
-- A sandbox owns at most one reservation at a time.
create unique index one_reservation_per_sandbox on reservations (sandbox_id) where state = 'held';

-- A folder of memory, device state and disk. Registered before the folder is made, so that a crash leaves no nameless one.
create table snapshots (
  id text primary key,
  kind text not null check (kind in ('template', 'continuation')),
  -- The template or the sandbox that it is a snapshot of.
  logical_id text not null,
  folder text not null,
  state text not null check (state in ('making', 'ready', 'quarantined', 'deleted')),
  -- JSON: engine, its version and acceleration, CPU model, file sizes, hash of the manifest.
  facts text check (json_valid(facts)),
  -- Why a continuation was taken.
  reason text,
  quarantine_reason text,
  created_at_ms integer not null,
  check (state <> 'ready' or facts is not null),
  check (state <> 'quarantined' or quarantine_reason is not null)
) strict;
create unique index one_snapshot_per_folder on snapshots (folder) where state <> 'deleted';

create table templates (
  id text primary key,
  public integer not null check (public in (0, 1)),
  vcpu_count integer not null check (vcpu_count > 0),
  memory_mib integer not null check (memory_mib > 0),
  disk_mib integer not null check (disk_mib >= 0),
  created_at_ms integer not null,
  updated_at_ms integer not null,
  spawn_count integer not null default 0,
  last_spawned_at_ms integer
) strict;

create table template_aliases (
  alias text primary key,
  template_id text not null references templates (id) on delete cascade,
  -- Order in which clients see them; the first one names the template.
  position integer not null
) strict, without rowid;
create index aliases_of_template on template_aliases (template_id, position);

-- A build that succeeded, and the snapshot it made.
create table template_builds (
  id text primary key,
  template_id text not null references templates (id) on delete cascade,
  snapshot_id text not null unique references snapshots (id),
  created_at_ms integer not null
) strict;
create index builds_of_template on template_builds (template_id, created_at_ms);

create table template_tags (
  template_id text not null references templates (id) on delete cascade,
  tag text not null,
  build_id text not null references template_builds (id) on delete cascade,
  assigned_at_ms integer not null,
  primary key (template_id, tag)
) strict, without rowid;
create index tags_of_build on template_tags (build_id);

create table sandboxes (
  id text primary key,
  -- Not a foreign key: an ended sandbox may outlive its template.
  template_id text not null,
  template_alias text,
  snapshot_id text not null references snapshots (id),
  state text not null check (
    state in ('creating', 'running', 'pausing', 'paused', 'resuming', 'terminating', 'terminated')
  ),
  metadata text not null check (json_valid(metadata)), -- JSON: text to text
  envs text not null check (json_valid(envs)), -- JSON: text to text
  vcpu_count integer not null,
  memory_mib integer not null,
  disk_mib integer not null,
  allow_internet_access integer not null check (allow_internet_access in (0, 1)),
  started_at_ms integer not null,
  end_at_ms integer not null,
  machine text check (json_valid(machine)), -- JSON: MachineRecord
  machine_session_id text as (machine ->> '$.sessionId') virtual,
  -- Held while there is, or may be, a machine; the last one it had otherwise.
  reservation_id text not null references reservations (id),
  end_reason text check (end_reason in ('killed', 'expired', 'create_failed', 'machine_died', 'lost')),
  check (state not in ('running', 'pausing') or machine is not null),
  check ((state in ('terminating', 'terminated')) = (end_reason is not null))
) strict;
create index sandboxes_by_state on sandboxes (state, started_at_ms, id);
create unique index sandboxes_by_session on sandboxes (machine_session_id) where machine_session_id is not null;
create index sandboxes_by_snapshot on sandboxes (snapshot_id);
create index sandboxes_by_reservation on sandboxes (reservation_id);

-- A VM restored ahead of demand.
create table warm_entries (
  id text primary key,
  template_id text not null,
  build_id text not null,
  runtime_profile text not null,
  snapshot_id text not null references snapshots (id),
  state text not null check (state in ('warming', 'ready', 'checked_out', 'discarded')),
  reservation_id text not null unique references reservations (id),
  machine text check (json_valid(machine)), -- JSON: MachineRecord
  created_at_ms integer not null,
  check (state not in ('ready', 'checked_out') or machine is not null)
) strict;
create index warm_entries_by_key on warm_entries (template_id, build_id, runtime_profile, state, created_at_ms);
create index warm_entries_by_snapshot on warm_entries (snapshot_id);

-- Only the newest of each (span, engine, acceleration) are kept: src/ledger/samples.ts.
create table latency_samples (
  span text not null,
  engine text not null,
  acceleration text not null,
  -- Counts up within its (span, engine, acceleration), so that what is too old is a range of the key.
  number integer not null,
  duration_ms real not null check (duration_ms between 0 and 1e12),
  sandbox_id text,
  at_ms integer not null,
  primary key (span, engine, acceleration, number)
) strict, without rowid;
create index samples_by_duration on latency_samples (span, engine, acceleration, duration_ms);
