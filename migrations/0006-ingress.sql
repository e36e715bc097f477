-- How requests get to the ports of a sandbox.

-- JSON: SandboxIngress
alter table sandboxes add column ingress text not null
  default '{"allowPublicTraffic":true,"maskRequestHost":null}' check (json_valid(ingress));
