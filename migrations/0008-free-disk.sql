-- How much of its disk a build must leave to its sandboxes; null: the client does not mind.
alter table template_build_jobs add column min_free_disk_mib integer check (min_free_disk_mib >= 0);
