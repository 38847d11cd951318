SET ROLE laneway_owner;

-- Tasks that come again by the clock. The gateway makes and changes them; the persister that wakes publishes what is due.
CREATE TABLE runtime.schedules (
  schedule_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  name text,
  cron text NOT NULL,
  time_zone text NOT NULL,
  missed text NOT NULL CHECK (missed IN ('skip', 'run_once')),
  enabled boolean NOT NULL,
  -- As the tenant gave it, and as it is published but for what each tick has of its own.
  task jsonb NOT NULL,
  message bytea NOT NULL,
  user_id text,
  -- The tier that is asked for (NULL: the user's own, as it is then), and those whose users may ask for it.
  tier text,
  allowed_to text[] NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- The first tick that is not settled; when it is to be looked at, which is later where it could not be published at
  -- once; and what it waits for then, since when.
  next_at timestamptz,
  due_at timestamptz,
  waiting text,
  tried_at timestamptz,
  CHECK ((next_at IS NULL) = (due_at IS NULL) AND (enabled OR next_at IS NULL))
);
CREATE INDEX schedules_of_tenant ON runtime.schedules (tenant_id, schedule_id DESC);
CREATE INDEX schedules_due ON runtime.schedules (due_at) WHERE due_at IS NOT NULL;
CALL identity.protect('runtime.schedules', 'laneway_persister');

-- What became of the last ticks of each schedule. Those that were missed together are one row, until the last of them.
CREATE TABLE runtime.ticks (
  schedule_id uuid NOT NULL REFERENCES runtime.schedules ON DELETE CASCADE,
  tick_at timestamptz NOT NULL,
  tenant_id uuid NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('fired', 'skipped', 'missed')),
  reason text CHECK ((outcome = 'fired') = (reason IS NULL)),
  task_id uuid CHECK ((outcome = 'fired') = (task_id IS NOT NULL)),
  until timestamptz NOT NULL,
  settled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (schedule_id, tick_at)
);
CALL identity.protect('runtime.ticks', 'laneway_persister');

-- Schedules to look at, with what their tenants may do at this moment, by the clock of the database.
CREATE FUNCTION runtime.due_schedules(p_limit integer)
RETURNS TABLE (schedule_id uuid, tenant_id uuid, cron text, time_zone text, missed text, message bytea, next_at timestamptz,
               waiting text, tried_at timestamptz, tier text, max_outstanding integer, refusal text, now timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.schedule_id, s.tenant_id, s.cron, s.time_zone, s.missed, s.message, s.next_at, s.waiting,
         CASE WHEN s.waiting IS NOT NULL THEN s.tried_at END, coalesce(s.tier, u.tier, p.tier), coalesce(t.max_outstanding, p.max_outstanding),
         CASE WHEN t.disabled_at IS NOT NULL THEN 'tenant_disabled'
              WHEN NOT EXISTS (SELECT FROM identity.api_keys k WHERE k.tenant_id = s.tenant_id AND k.revoked_at IS NULL)
              THEN 'no_valid_key'
              WHEN s.tier IS NOT NULL AND coalesce(u.tier, p.tier) <> ALL (s.allowed_to) THEN 'tier_not_allowed' END,
         clock_timestamp()
  FROM runtime.schedules s JOIN identity.tenants t ON t.tenant_id = s.tenant_id JOIN identity.plans p ON p.name = t.plan
  LEFT JOIN identity.users u ON u.tenant_id = s.tenant_id AND u.user_id = s.user_id
  WHERE s.due_at <= now() ORDER BY s.due_at, s.schedule_id LIMIT p_limit
$$;
REVOKE ALL ON FUNCTION runtime.due_schedules FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.due_schedules, runtime.refuse TO laneway_persister;

GRANT SELECT, INSERT, UPDATE, DELETE ON runtime.schedules TO laneway_gateway;
GRANT SELECT ON runtime.ticks TO laneway_gateway;
GRANT SELECT, UPDATE (next_at, due_at, waiting, tried_at) ON runtime.schedules TO laneway_persister;
GRANT SELECT, INSERT, DELETE ON runtime.ticks TO laneway_persister;

RESET ROLE;
