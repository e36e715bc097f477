-- A sandbox may be paused while its host saves nothing: its machine stays, stopped, and is saved later.

-- The guest kernel's boot id, of a snapshot that waits to be made of a machine that is stopped: it cannot be asked then.
alter table snapshots add column boot_id text;

-- Made anew because a check of a column cannot be changed: there is a further state.
create table new_sandboxes (
  id text primary key,
  -- Not a foreign key: an ended sandbox may outlive its template.
  template_id text not null,
  template_alias text,
  snapshot_id text not null references snapshots (id),
  state text not null check (
    state in ('creating', 'running', 'pausing', 'paused', 'paused_in_memory', 'resuming', 'terminating', 'terminated')
  ),
  metadata text not null check (json_valid(metadata)), -- JSON: text to text
  envs text not null check (json_valid(envs)), -- JSON: text to text
  -- Of its template: what a boot gives the agent again.
  default_user text not null,
  workdir text not null,
  vcpu_count integer not null,
  memory_mib integer not null,
  disk_mib integer not null,
  allow_internet_access integer not null check (allow_internet_access in (0, 1)),
  ingress text not null check (json_valid(ingress)), -- JSON: SandboxIngress
  on_timeout text not null check (on_timeout in ('kill', 'pause')),
  -- Whether it is paused with its memory when its time is up.
  keep_memory integer not null check (keep_memory in (0, 1)),
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
  check (state not in ('running', 'pausing', 'paused_in_memory') or machine is not null),
  check ((state in ('terminating', 'terminated')) = (end_reason is not null))
) strict;
insert into new_sandboxes (id, template_id, template_alias, snapshot_id, state, metadata, envs, default_user, workdir,
    vcpu_count, memory_mib, disk_mib, allow_internet_access, ingress, on_timeout, keep_memory, auto_resume, timeout_ms,
    started_at_ms, end_at_ms, machine, reservation_id, end_reason)
  select id, template_id, template_alias, snapshot_id, state, metadata, envs, default_user, workdir,
    vcpu_count, memory_mib, disk_mib, allow_internet_access, ingress, on_timeout, keep_memory, auto_resume, timeout_ms,
    started_at_ms, end_at_ms, machine, reservation_id, end_reason
  from sandboxes;
drop table sandboxes;
alter table new_sandboxes rename to sandboxes;
create index sandboxes_by_state on sandboxes (state, started_at_ms, id);
create unique index sandboxes_by_session on sandboxes (machine_session_id) where machine_session_id is not null;
create index sandboxes_by_snapshot on sandboxes (snapshot_id);
create index sandboxes_by_reservation on sandboxes (reservation_id);
