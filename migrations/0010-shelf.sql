-- Saves that are one machine each, made ahead of who will be restored from them, where one save cannot be several.
-- Snapshots of kind continuation, complete; their logical id is the build.
create table shelf_saves (
  snapshot_id text primary key references snapshots (id),
  -- Of the template that it goes on from. Not a foreign key: the save may outlive it for a moment.
  build_id text not null
) strict, without rowid;
create index shelf_saves_by_build on shelf_saves (build_id);
