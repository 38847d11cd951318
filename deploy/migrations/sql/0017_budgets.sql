SET ROLE laneway_owner;

-- What a plan gives where nobody says otherwise. A conversation has no cap of its own, unless its plan or an override has one.
-- NULL models or agents: all of the catalogue.
ALTER TABLE identity.plans
  ALTER COLUMN run_cap_usd SET DEFAULT 1,
  ALTER COLUMN user_day_cap_usd SET DEFAULT 20,
  ADD COLUMN conversation_cap_usd numeric(20, 10) CHECK (conversation_cap_usd >= 0 AND conversation_cap_usd < 'NaN'),
  ADD COLUMN allowed_models text[],
  ADD COLUMN allowed_agents text[];

-- The tenant's days and months begin in its time zone. `zone_day` is the day that it was when the zone was last changed,
-- with what is left to know of the zone before: when that day, and its month, began.
ALTER TABLE identity.tenants
  ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC',
  ADD COLUMN zone_day date NOT NULL DEFAULT '-infinity',
  ADD COLUMN zone_day_began timestamptz,
  ADD COLUMN zone_month_began timestamptz;

ALTER TABLE billing.holds ADD COLUMN conversation_id uuid;
CREATE INDEX holds_of_conversation ON billing.holds (conversation_id) WHERE conversation_id IS NOT NULL;
-- What its run's next worker found of a call whose worker died in it: {agent, metadata, output_tokens}.
ALTER TABLE billing.holds ADD COLUMN received jsonb;
ALTER TABLE runtime.runs ADD COLUMN waits_for_holds_since timestamptz;
-- What one that waits for a budget is to find there, in US dollars.
ALTER TABLE runtime.parked ADD COLUMN needs numeric(20, 10);

-- The first moment of a day in a zone. Where clocks are set back at midnight it comes twice, and PostgreSQL names the
-- second one; where it is skipped, the day begins when the clocks have been set.
CREATE FUNCTION billing.day_begins(p_day date, p_zone text) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN ((m.midnight - interval '1 hour') AT TIME ZONE p_zone)::date >= p_day
              THEN m.midnight - interval '1 hour' ELSE m.midnight END
  FROM (SELECT p_day::timestamp AT TIME ZONE p_zone AS midnight) AS m
$$;

-- Which day it is for a tenant: that of its zone, and never an earlier one than it has been. So each moment belongs to one
-- day and one month, and a change of the zone neither opens a day again nor counts anything in two.
CREATE FUNCTION billing.day_in(p_zone text, p_zone_day date, p_at timestamptz) RETURNS date
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT greatest((p_at AT TIME ZONE p_zone)::date, p_zone_day)
$$;
CREATE FUNCTION billing.day_at(p_tenant uuid, p_at timestamptz) RETURNS date
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT billing.day_in(t.time_zone, t.zone_day, p_at) FROM identity.tenants t WHERE t.tenant_id = p_tenant
$$;

-- When a scope's period begins and ends, of the present day or a later one; NULL for scopes without.
CREATE FUNCTION billing.period_of(p_tenant uuid, p_scope text, p_day date)
RETURNS TABLE (begins_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE
      WHEN p_scope IN ('tenant_day', 'user_day') THEN
        CASE WHEN p_day = t.zone_day THEN t.zone_day_began ELSE billing.day_begins(p_day, t.time_zone) END
      WHEN p_scope = 'tenant_month' THEN
        CASE WHEN date_trunc('month', p_day) = date_trunc('month', t.zone_day) THEN t.zone_month_began
             ELSE billing.day_begins(date_trunc('month', p_day)::date, t.time_zone) END
    END,
    CASE
      WHEN p_scope IN ('tenant_day', 'user_day') THEN billing.day_begins(p_day + 1, t.time_zone)
      WHEN p_scope = 'tenant_month' THEN
        billing.day_begins((date_trunc('month', p_day) + interval '1 month')::date, t.time_zone)
    END
  FROM identity.tenants t WHERE t.tenant_id = p_tenant
$$;

-- Caps that operators have set in place of a plan's: the subject '' stands for the tenant's every run, user and
-- conversation, or for the tenant itself; another one for that one alone.
CREATE TABLE billing.budgets (
  tenant_id uuid NOT NULL,
  subject text COLLATE "C" NOT NULL,
  scope text COLLATE "C" NOT NULL CHECK (scope IN ('conversation', 'run', 'tenant_day', 'tenant_month', 'user_day')),
  cap numeric(20, 10) NOT NULL CHECK (cap >= 0 AND cap < 'NaN'),
  set_by text NOT NULL,
  reason text NOT NULL,
  set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, subject, scope),
  CHECK (subject = '' OR scope IN ('conversation', 'run', 'user_day'))
);
CALL identity.protect('billing.budgets', 'laneway_billing');

-- The cap that is in force, and where it comes from: the plan, the tenant's own, or that of the one subject.
CREATE FUNCTION billing.cap_of(p_tenant uuid, p_scope text, p_subject text) RETURNS TABLE (cap numeric, source text)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT coalesce(own.cap, every.cap, CASE p_scope
      WHEN 'run' THEN q.run_cap_usd WHEN 'conversation' THEN q.conversation_cap_usd WHEN 'user_day' THEN q.user_day_cap_usd
      WHEN 'tenant_day' THEN q.tenant_day_cap_usd WHEN 'tenant_month' THEN q.tenant_month_cap_usd END),
    CASE WHEN own.cap IS NOT NULL THEN split_part(p_scope, '_', 1) WHEN every.cap IS NOT NULL THEN 'tenant' ELSE 'plan' END
  FROM identity.tenants t JOIN identity.plans q ON q.name = t.plan
  LEFT JOIN billing.budgets every ON every.tenant_id = t.tenant_id AND every.subject = '' AND every.scope = p_scope
  LEFT JOIN billing.budgets own ON own.tenant_id = t.tenant_id AND own.subject = p_subject AND own.scope = p_scope
    AND p_subject <> ''
  WHERE t.tenant_id = p_tenant
$$;

-- Warnings, each once: that a scope has spent 50 or 80 % of its cap in a period, or all of it; or, at 100, that what is
-- left is too little for a call that the cap as such would have allowed. Told on RabbitMQ by billing, at least once.
CREATE TABLE billing.budget_warnings (
  tenant_id uuid NOT NULL,
  scope text COLLATE "C" NOT NULL,
  subject text COLLATE "C" NOT NULL,
  period date NOT NULL,
  threshold integer NOT NULL CHECK (threshold IN (50, 80, 100)),
  warning_id uuid NOT NULL DEFAULT gen_random_uuid(),
  cap numeric(20, 10) NOT NULL,
  charged numeric(20, 10) NOT NULL,
  warned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  told_at timestamptz,
  PRIMARY KEY (tenant_id, scope, subject, period, threshold)
);
CREATE INDEX warnings_untold ON billing.budget_warnings (warned_at) WHERE told_at IS NULL;
CALL identity.protect('billing.budget_warnings', 'laneway_billing');

-- Nothing where nothing is spent yet: then it is no use of the budget that is in the way.
CREATE FUNCTION billing.note_used_up(p_tenant uuid, p_scope text, p_subject text, p_day date, p_cap numeric) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO billing.budget_warnings (tenant_id, scope, subject, period, threshold, cap, charged)
  SELECT b.tenant_id, b.scope, b.subject, b.period, t.threshold, p_cap, b.charged
  FROM billing.balances b CROSS JOIN (VALUES (50), (80), (100)) AS t (threshold)
  WHERE b.tenant_id = p_tenant AND b.scope = p_scope AND b.subject = p_subject AND b.charged > 0
    AND b.period = CASE p_scope WHEN 'tenant_month' THEN date_trunc('month', p_day)::date
                                WHEN 'tenant_day' THEN p_day WHEN 'user_day' THEN p_day ELSE 'epoch' END
    AND (t.threshold = 100 OR b.charged >= p_cap * t.threshold * 0.01)
  ON CONFLICT DO NOTHING
$$;

-- Who changed what, when and why; for ever. Amounts and zones as they were in force before and after, NULL: no cap.
CREATE TABLE billing.budget_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  tenant_id uuid NOT NULL,
  action text NOT NULL CHECK (action IN ('set', 'removed', 'time_zone')),
  scope text,
  subject text,
  old_value text,
  new_value text,
  set_by text NOT NULL,
  reason text NOT NULL
);
CREATE INDEX budget_log_of_tenant ON billing.budget_log (tenant_id, id);
CALL identity.protect('billing.budget_log', 'laneway_billing');
CREATE FUNCTION billing.refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the log of budgets is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.budget_log
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();
ALTER TABLE billing.budget_log ENABLE ALWAYS TRIGGER append_only;

-- Sets an override, or removes it (a cap that is NULL), and logs it; false where there is no such tenant, or nothing to
-- remove. Holds that are under way are waited for: once this is committed all others go by it.
CREATE FUNCTION billing.put_budget(p_tenant uuid, p_scope text, p_subject text, p_cap numeric, p_by text, p_reason text)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE before numeric; after numeric; today date;
BEGIN
  PERFORM pg_advisory_xact_lock(7316017, hashtext(p_tenant::text));
  SELECT c.cap INTO before FROM billing.cap_of(p_tenant, p_scope, p_subject) c;
  IF NOT FOUND THEN RETURN false; END IF;
  IF p_cap IS NULL THEN
    DELETE FROM billing.budgets b WHERE b.tenant_id = p_tenant AND b.scope = p_scope AND b.subject = p_subject;
    IF NOT FOUND THEN RETURN false; END IF;
  ELSE
    INSERT INTO billing.budgets (tenant_id, scope, subject, cap, set_by, reason)
    VALUES (p_tenant, p_scope, p_subject, p_cap, p_by, p_reason)
    ON CONFLICT (tenant_id, subject, scope) DO UPDATE
      SET cap = excluded.cap, set_by = p_by, reason = p_reason, set_at = clock_timestamp();
  END IF;
  SELECT c.cap INTO after FROM billing.cap_of(p_tenant, p_scope, p_subject) c;
  INSERT INTO billing.budget_log (tenant_id, action, scope, subject, old_value, new_value, set_by, reason)
  VALUES (p_tenant, CASE WHEN p_cap IS NULL THEN 'removed' ELSE 'set' END, p_scope, p_subject,
          trim_scale(before)::text, trim_scale(after)::text, p_by, p_reason);
  -- A lower cap may be used up by what is spent already.
  today := billing.day_at(p_tenant, clock_timestamp());
  INSERT INTO billing.budget_warnings (tenant_id, scope, subject, period, threshold, cap, charged)
  SELECT b.tenant_id, b.scope, b.subject, b.period, t.threshold, c.cap, b.charged
  FROM billing.balances b CROSS JOIN LATERAL billing.cap_of(p_tenant, b.scope, b.subject) AS c
  CROSS JOIN (VALUES (50), (80), (100)) AS t (threshold)
  WHERE b.tenant_id = p_tenant AND b.scope = p_scope AND b.charged > 0 AND b.charged >= c.cap * t.threshold * 0.01
    AND (b.subject = p_subject OR p_subject = '' AND p_scope = 'user_day')
    AND b.period = CASE p_scope WHEN 'tenant_month' THEN date_trunc('month', today)::date
                                WHEN 'tenant_day' THEN today WHEN 'user_day' THEN today ELSE 'epoch' END
  ORDER BY b.tenant_id, b.scope, b.subject, b.period, t.threshold
  ON CONFLICT DO NOTHING;
  NOTIFY laneway_parking;
  RETURN true;
END $$;

-- Changes when a tenant's days begin. The day that it is goes on, unless it is a later one in the new zone already: then
-- that one begins now. False where there is no such tenant; raises invalid_parameter_value where there is no such zone.
CREATE FUNCTION billing.put_time_zone(p_tenant uuid, p_zone text, p_by text, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE at timestamptz; before text; old_day date; new_day date; day_began timestamptz; month_began timestamptz;
BEGIN
  -- Not pg_timezone_names: it reads every file of the system's, and fails with one that cannot be read.
  IF p_zone !~ '^[A-Za-z]+(/[A-Za-z0-9_+-]+)*$' THEN  -- PostgreSQL would take XYZ-3 for a zone, too
    RAISE EXCEPTION 'there is no time zone %', p_zone USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM clock_timestamp() AT TIME ZONE p_zone;  -- raises the same
  PERFORM pg_advisory_xact_lock(7316017, hashtext(p_tenant::text));
  at := clock_timestamp();
  SELECT t.time_zone, billing.day_at(p_tenant, at) INTO before, old_day
  FROM identity.tenants t WHERE t.tenant_id = p_tenant FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  new_day := greatest((at AT TIME ZONE p_zone)::date, old_day);
  SELECT CASE WHEN new_day > old_day THEN at ELSE p.begins_at END INTO day_began
  FROM billing.period_of(p_tenant, 'tenant_day', old_day) p;
  SELECT CASE WHEN date_trunc('month', new_day) > date_trunc('month', old_day) THEN at ELSE p.begins_at END INTO month_began
  FROM billing.period_of(p_tenant, 'tenant_month', old_day) p;
  UPDATE identity.tenants t
  SET time_zone = p_zone, zone_day = new_day, zone_day_began = day_began, zone_month_began = month_began
  WHERE t.tenant_id = p_tenant;
  INSERT INTO billing.budget_log (tenant_id, action, old_value, new_value, set_by, reason)
  VALUES (p_tenant, 'time_zone', before, p_zone, p_by, p_reason);
  NOTIFY laneway_parking;
  RETURN true;
END $$;

-- Gives a tenant another plan: its caps, features and prices at once, its fee from this day on. False where there is no such
-- tenant; raises foreign_key_violation where there is no such plan. The trigger on tenants keeps it, with who and why.
CREATE FUNCTION identity.put_plan(p_tenant uuid, p_plan text, p_by text, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7316017, hashtext(p_tenant::text));
  PERFORM set_config('laneway.plan_by', p_by, true), set_config('laneway.plan_reason', p_reason, true);
  UPDATE identity.tenants t SET plan = p_plan WHERE t.tenant_id = p_tenant;
  IF NOT FOUND THEN RETURN false; END IF;
  PERFORM set_config('laneway.plan_by', '', true), set_config('laneway.plan_reason', '', true);
  NOTIFY laneway_parking;
  RETURN true;
END $$;

-- What is left in a scope now, with nothing that is held counted as left; NULL: there is no cap. A run may have set itself
-- a lower one.
CREATE FUNCTION billing.room_in(p_tenant uuid, p_scope text, p_subject text, p_own_cap numeric) RETURNS numeric
LANGUAGE sql STABLE AS $$
  SELECT least(c.cap, p_own_cap) - coalesce(b.charged + b.held, 0)
  FROM billing.cap_of(p_tenant, p_scope, p_subject) AS c
  CROSS JOIN (SELECT billing.day_at(p_tenant, clock_timestamp()) AS today) AS d
  LEFT JOIN billing.balances b ON b.tenant_id = p_tenant AND b.scope = p_scope AND b.subject = p_subject
    AND b.period = CASE p_scope WHEN 'tenant_month' THEN date_trunc('month', d.today)::date
                                WHEN 'tenant_day' THEN d.today WHEN 'user_day' THEN d.today ELSE 'epoch' END
$$;

-- Wakes, in order, those of a line that fit into their budget as it is now: raised, renewed, or with holds given back. It is
-- looked at, not told, so that nothing is missed, whoever changed what. Who needs more than there is is passed by.
CREATE FUNCTION runtime.wake_for_budget(p_tenant uuid, p_key text, p_window integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  scope text := split_part(p_key, ':', 1);
  spare numeric; own_cap numeric; waiting record; promised numeric; ready bigint; woken integer := 0;
BEGIN
  IF scope = 'run' THEN
    SELECT (convert_from(p.message, 'UTF8')::json ->> 'max_cost_usd')::numeric INTO own_cap FROM runtime.parked p
    WHERE p.tenant_id = p_tenant AND p.reason = 'budget' AND p.key = p_key;
  END IF;
  spare := billing.room_in(p_tenant, scope, substr(p_key, length(scope) + 2), own_cap);
  SELECT count(*), coalesce(sum(p.needs), 0) INTO ready, promised FROM runtime.parked p
  WHERE p.tenant_id = p_tenant AND p.reason = 'budget' AND p.key = p_key AND p.ready_at IS NOT NULL;
  spare := spare - promised;
  FOR waiting IN
    SELECT p.task_id, p.needs FROM runtime.parked p
    WHERE p.tenant_id = p_tenant AND p.reason = 'budget' AND p.key = p_key AND p.ready_at IS NULL
      AND (spare IS NULL OR p.needs <= spare)
    ORDER BY p.priority DESC, p.submitted_at, p.task_id LIMIT greatest(0, p_window - ready)
    FOR NO KEY UPDATE SKIP LOCKED
  LOOP
    CONTINUE WHEN waiting.needs > spare;
    UPDATE runtime.parked p SET ready_at = clock_timestamp() WHERE p.task_id = waiting.task_id AND p.ready_at IS NULL;
    spare := spare - waiting.needs;
    woken := woken + 1;
  END LOOP;
  RETURN woken;
END $$;

-- Calls of a run's earlier acquisitions that nothing has resolved, and of which nobody has put down what was received: of
-- each acquisition the last, since a run goes on from a call only once its record is out.
CREATE FUNCTION runtime.cut_calls(p_task uuid, p_fence integer) RETURNS TABLE (attempt_id uuid, fence integer, step integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT DISTINCT ON (h.fence) h.attempt_id, h.fence, h.step FROM billing.holds h
  WHERE h.task_id = p_task AND h.fence < p_fence AND h.state IN ('open', 'in_doubt') AND h.received IS NULL
  ORDER BY h.fence, h.call DESC
$$;

CREATE FUNCTION runtime.note_received(p_task uuid, p_fence integer, p_attempt uuid, p_received jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE billing.holds h SET received = p_received FROM runtime.runs r
  WHERE r.task_id = p_task AND r.fence = p_fence AND h.attempt_id = p_attempt AND h.task_id = p_task
    AND h.fence < p_fence AND h.state IN ('open', 'in_doubt') AND h.received IS NULL
$$;

-- Records that said something else of an attempt than what was filed: kept to be looked into, each once.
CREATE TABLE billing.usage_conflicts (
  attempt_id uuid NOT NULL,
  digest text NOT NULL GENERATED ALWAYS AS (md5(record::text)) STORED,
  tenant_id uuid NOT NULL,
  record jsonb NOT NULL,
  filed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (attempt_id, digest)
);
CALL identity.protect('billing.usage_conflicts', 'laneway_billing');
GRANT SELECT, INSERT ON billing.usage_conflicts TO laneway_billing;

-- Tenants that would use up their month before it ends, at the rate of their last two days; a day's first hours count as
-- six at least, so that a few calls after midnight are no trend.
CREATE FUNCTION billing.burning()
RETURNS TABLE (tenant_id uuid, name text, plan text, cap numeric, charged numeric, usd_per_day numeric,
               used_up_at timestamptz, month_ends_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.tenant_id, t.name, t.plan, c.cap, b.charged, round(r.per_day, 10),
         clock_timestamp() + make_interval(secs => least(greatest(c.cap - b.charged, 0) / r.per_day, 366)::float8 * 86400),
         m.ends_at
  FROM identity.tenants t
  CROSS JOIN LATERAL (SELECT billing.day_at(t.tenant_id, clock_timestamp()) AS today) AS d
  JOIN billing.balances b ON b.tenant_id = t.tenant_id AND b.scope = 'tenant_month' AND b.subject = ''
    AND b.period = date_trunc('month', d.today)::date
  CROSS JOIN LATERAL billing.cap_of(t.tenant_id, 'tenant_month', '') AS c
  CROSS JOIN LATERAL billing.period_of(t.tenant_id, 'tenant_month', b.period) AS m
  CROSS JOIN LATERAL (
    SELECT greatest(m.begins_at, billing.day_begins(d.today - 1, t.time_zone)) AS since, sum(y.charged) AS charged
    FROM billing.balances y WHERE y.tenant_id = t.tenant_id AND y.scope = 'tenant_day' AND y.subject = ''
      AND y.period BETWEEN greatest(d.today - 1, b.period) AND d.today) AS w
  CROSS JOIN LATERAL (
    SELECT w.charged * 86400 / greatest(extract(epoch FROM clock_timestamp() - w.since), 21600) AS per_day) AS r
  WHERE r.per_day > 0 AND greatest(c.cap - b.charged, 0) / r.per_day * 86400
        < extract(epoch FROM m.ends_at - clock_timestamp())
$$;

REVOKE ALL ON FUNCTION identity.put_plan, billing.note_used_up, billing.put_budget, billing.put_time_zone, billing.room_in,
  runtime.wake_for_budget, runtime.cut_calls, runtime.note_received, billing.burning FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.cut_calls, runtime.note_received TO laneway_worker;
GRANT EXECUTE ON FUNCTION identity.put_plan, billing.put_budget, billing.put_time_zone, billing.burning TO laneway_gateway;
GRANT EXECUTE ON FUNCTION billing.burning TO laneway_billing;
GRANT SELECT ON billing.budgets, billing.budget_warnings, billing.budget_log TO laneway_gateway;
GRANT SELECT, INSERT, UPDATE ON billing.budget_warnings TO laneway_billing;
GRANT SELECT ON billing.budgets TO laneway_billing;

RESET ROLE;
