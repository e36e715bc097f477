-- Builds that clients ask for, and what a template hands on to its sandboxes besides a snapshot.

-- A build as a client asked for it, whatever becomes of it. One that is ready has a row of the same id in template_builds.
create table template_build_jobs (
  id text primary key,
  template_id text not null references templates (id) on delete cascade,
  state text not null check (state in ('waiting', 'building', 'ready', 'error')),
  tags text not null check (json_valid(tags)), -- JSON: list of texts, assigned when it is ready
  -- What the client asked for; null: as the template it is built from.
  vcpu_count integer check (vcpu_count > 0),
  memory_mib integer check (memory_mib > 0),
  -- While it is building, for whoever finds it after a crash.
  machine text check (json_valid(machine)), -- JSON: MachineRecord
  snapshot_id text,
  reservation_id text,
  -- JSON: message, step, the last log entries of the step that failed.
  reason text check (json_valid(reason)),
  -- JSON: the log of a build that has come to its end.
  log text check (json_valid(log)),
  created_at_ms integer not null,
  updated_at_ms integer not null,
  finished_at_ms integer,
  check ((state = 'error') = (reason is not null)),
  check ((state in ('ready', 'error')) = (finished_at_ms is not null))
) strict;
create index build_jobs_of_template on template_build_jobs (template_id, created_at_ms);
create index unfinished_build_jobs on template_build_jobs (state) where state in ('waiting', 'building');

-- What its sandboxes start with, and what its machines are given.
alter table template_builds add column envs text not null default '{}' check (json_valid(envs)); -- JSON: text to text
alter table template_builds add column default_user text not null default 'user';
-- Empty: the user's home.
alter table template_builds add column workdir text not null default '';
-- Null in builds made before: as the template.
alter table template_builds add column vcpu_count integer;
alter table template_builds add column memory_mib integer;
alter table template_builds add column disk_mib integer;
-- Freshness: what it was made from. A build whose parent has a newer one, or whose source changed, is stale.
alter table template_builds add column source_revision text;
alter table template_builds add column parent_build_id text;
alter table template_builds add column spec text check (json_valid(spec)); -- JSON: the steps, to make it again
