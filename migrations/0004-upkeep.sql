-- What is set aside, how a sandbox ends and is paused without its memory, and what a latency sample was a part of.

-- Files, folders and machines that a daemon found at its start and could not name. Snapshots that are damaged are not in
-- here: their rows say so themselves.
create table quarantine (
  id text primary key,
  kind text not null check (kind in ('file', 'folder', 'machine')),
  -- As it was found.
  name text not null,
  reason text not null,
  -- JSON: MachineRecord of a machine that runs. What was a file or a folder is in `quarantine/<id>` now.
  machine text check (json_valid(machine)),
  at_ms integer not null,
  check ((kind = 'machine') = (machine is not null))
) strict;

alter table snapshots add column quarantined_at_ms integer;
update snapshots set quarantined_at_ms = created_at_ms where state = 'quarantined';

-- Made anew because a check of a column cannot be changed: a sandbox may also have been stopped.
create table new_sandboxes (
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
  -- Of its template: what a boot gives the agent again.
  default_user text not null default 'user',
  workdir text not null default '',
  vcpu_count integer not null,
  memory_mib integer not null,
  disk_mib integer not null,
  allow_internet_access integer not null check (allow_internet_access in (0, 1)),
  on_timeout text not null check (on_timeout in ('kill', 'pause')),
  -- Whether it is paused with its memory when its time is up.
  keep_memory integer not null default 1 check (keep_memory in (0, 1)),
  -- Whether a request to a paused one resumes it.
  auto_resume integer not null check (auto_resume in (0, 1)),
  -- As the client asked for it when it created the sandbox.
  timeout_ms integer not null check (timeout_ms >= 0),
  started_at_ms integer not null,
  end_at_ms integer not null,
  machine text check (json_valid(machine)), -- JSON: MachineRecord
  machine_session_id text as (machine ->> '$.sessionId') virtual,
  -- Held while there is, or may be, a machine; the last one it had otherwise.
  reservation_id text not null references reservations (id),
  end_reason text check (
    end_reason in ('killed', 'stopped', 'expired', 'create_failed', 'machine_died', 'lost')
  ),
  check (state not in ('running', 'pausing') or machine is not null),
  check ((state in ('terminating', 'terminated')) = (end_reason is not null))
) strict;
insert into new_sandboxes (id, template_id, template_alias, snapshot_id, state, metadata, envs, vcpu_count, memory_mib,
    disk_mib, allow_internet_access, on_timeout, auto_resume, timeout_ms, started_at_ms, end_at_ms, machine,
    reservation_id, end_reason)
  select id, template_id, template_alias, snapshot_id, state, metadata, envs, vcpu_count, memory_mib,
    disk_mib, allow_internet_access, on_timeout, auto_resume, timeout_ms, started_at_ms, end_at_ms, machine,
    reservation_id, end_reason
  from sandboxes;
drop table sandboxes;
alter table new_sandboxes rename to sandboxes;
create index sandboxes_by_state on sandboxes (state, started_at_ms, id);
create unique index sandboxes_by_session on sandboxes (machine_session_id) where machine_session_id is not null;
create index sandboxes_by_snapshot on sandboxes (snapshot_id);
create index sandboxes_by_reservation on sandboxes (reservation_id);

-- Made anew with what each sample was a part of. Older samples do not say it, and are evidence of nothing then.
drop table latency_samples;
create table latency_samples (
  span text not null,
  -- create, pool, resume, fork, followup, build …: src/types.ts.
  scenario text not null,
  engine text not null,
  acceleration text not null,
  -- Counts up within its (span, scenario, engine, acceleration), so that what is too old is a range of the key.
  number integer not null,
  duration_ms real not null check (duration_ms between 0 and 1e12),
  sandbox_id text,
  at_ms integer not null,
  primary key (span, scenario, engine, acceleration, number)
) strict, without rowid;
create index samples_by_duration on latency_samples (span, scenario, engine, acceleration, duration_ms);
