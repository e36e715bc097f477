-- What becomes of a sandbox when its time is up and how it comes back, and of which sandbox a template is a snapshot.

alter table sandboxes add column on_timeout text not null default 'kill' check (on_timeout in ('kill', 'pause'));
-- Whether a request to a paused one resumes it.
alter table sandboxes add column auto_resume integer not null default 0 check (auto_resume in (0, 1));
-- As the client asked for it when it created the sandbox.
alter table sandboxes add column timeout_ms integer not null default 300000 check (timeout_ms >= 0);

-- The sandbox that a template's snapshot was taken of; null when it was built.
alter table snapshots add column sandbox_id text;
create index snapshots_of_sandbox on snapshots (sandbox_id, created_at_ms) where sandbox_id is not null;
create index continuations on snapshots (logical_id) where kind = 'continuation' and state <> 'deleted';
