-- The secrets that open the data planes of sandboxes: made once for each sandbox, and never changed. Sandboxes of before
-- had theirs derived from a secret of the machine; those are written down when the daemon starts.
create table access_tokens (
  -- Not a foreign key: a table that is made anew would take the tokens with it. They go with the purge.
  sandbox_id text primary key,
  token text not null,
  sha256 text not null unique
) strict, without rowid;
