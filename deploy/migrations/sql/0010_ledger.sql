SET ROLE laneway_owner;

-- What a tenant is charged beside what the provider is paid: the plan's markup on the cost of each call, what of a
-- month's charges the plan gives away, and its fee for each month.
ALTER TABLE identity.plans
  ADD COLUMN markup_percent numeric(7, 4) NOT NULL DEFAULT 0 CHECK (markup_percent >= 0 AND markup_percent < 'NaN'),
  ADD COLUMN free_allowance_usd numeric(20, 10) NOT NULL DEFAULT 0
    CHECK (free_allowance_usd >= 0 AND free_allowance_usd < 'NaN'),
  ADD COLUMN monthly_fee_usd numeric(20, 10) NOT NULL DEFAULT 0 CHECK (monthly_fee_usd >= 0 AND monthly_fee_usd < 'NaN');

-- The markup is the hold's: a plan that changes during a call changes neither what was held nor what is charged.
ALTER TABLE billing.holds ADD COLUMN markup_percent numeric(7, 4) NOT NULL DEFAULT 0;

-- How often its amounts were corrected. They are those of its last entry in the ledger, which has all of them. Without a
-- price it is unpriced: it has no amounts, and is no call that cost nothing.
ALTER TABLE billing.usage ADD COLUMN revision integer NOT NULL DEFAULT 0;
ALTER TABLE billing.usage ADD CONSTRAINT priced_whole_or_not CHECK (num_nulls(price_id, cost, charge, variance) IN (0, 4));
ALTER TABLE billing.usage ADD CONSTRAINT variance_is_uncharged_cost CHECK (variance = greatest(cost - charge, 0));
CREATE INDEX usage_unpriced ON billing.usage (attempt_id) WHERE price_id IS NULL;
GRANT UPDATE (price_id, cost, charge, variance, revision) ON billing.usage TO laneway_billing;

-- The ledger's lines. Those with one `entry_id` are an entry: they sum to zero and are posted together. `month` is the one
-- it is invoiced with: of the day on which the hold was taken, whenever it is posted.
ALTER TABLE billing.ledger
  ADD COLUMN entry_id uuid,
  ADD COLUMN kind text NOT NULL DEFAULT 'usage'
    CHECK (kind IN ('usage', 'reversal', 'correction', 'fee', 'allowance')),
  ADD COLUMN hold_id uuid,
  ADD COLUMN reverses uuid,
  ADD COLUMN month date;
ALTER TABLE billing.ledger DISABLE TRIGGER append_only;
UPDATE billing.ledger l SET entry_id = l.attempt_id, hold_id = h.attempt_id,
  month = date_trunc('month', coalesce(h.day, (u.recorded_at AT TIME ZONE 'UTC')::date))
FROM billing.usage u LEFT JOIN billing.holds h USING (attempt_id) WHERE u.attempt_id = l.attempt_id;
ALTER TABLE billing.ledger
  ALTER COLUMN entry_id SET NOT NULL,
  ALTER COLUMN month SET NOT NULL,
  ALTER COLUMN kind DROP DEFAULT,
  DROP CONSTRAINT ledger_pkey,
  DROP CONSTRAINT ledger_price_id_fkey,  -- see refuse_unfounded
  ALTER COLUMN attempt_id DROP NOT NULL,
  ADD PRIMARY KEY (entry_id, account),
  ADD CHECK (account IN ('receivable', 'revenue', 'allowance', 'cost', 'variance') OR account LIKE 'payable:_%'),
  ADD CHECK (amount <> 0 AND amount < 'NaN'),
  ADD CHECK (extract(day FROM month) = 1),
  -- Usage names its call and its price; what a plan takes and gives does not.
  ADD CHECK ((kind IN ('fee', 'allowance')) = (attempt_id IS NULL) AND (attempt_id IS NULL) = (price_id IS NULL)),
  -- The hold has its call's id. A tenant pays for no call without one.
  ADD CHECK (hold_id = attempt_id),
  ADD CHECK (hold_id IS NOT NULL OR account NOT IN ('receivable', 'revenue') OR kind IN ('fee', 'allowance')),
  ADD CHECK ((kind = 'reversal') = (reverses IS NOT NULL)),
  ADD CHECK (kind <> 'usage' OR entry_id = attempt_id);
DROP INDEX billing.ledger_of_tenant;
CREATE INDEX ledger_of_month ON billing.ledger (tenant_id, month);
CREATE INDEX ledger_corrections ON billing.ledger (attempt_id) WHERE kind IN ('reversal', 'correction');
CREATE UNIQUE INDEX ledger_reversed_once ON billing.ledger (reverses, account) WHERE reverses IS NOT NULL;

-- What an entry names must be there and be its tenant's, a charge must fit its hold, and a reversal must be all of what it
-- reverses. Looked up once for a whole statement: as foreign keys these would be three look-ups for each line. By keys
-- alone: what is posted has no statistics, and its plan is kept while the tables grow.
CREATE FUNCTION billing.refuse_unfounded() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE wrong uuid; why text;
BEGIN
  SELECT p.entry_id, CASE
    WHEN u.tenant_id IS DISTINCT FROM p.tenant_id THEN 'names a usage record that its tenant has not'
    WHEN r.price_id IS NULL THEN 'names a price that the book has not'
    ELSE 'names a hold that its tenant has not, or charges more than was held' END
  INTO wrong, why
  FROM (SELECT o.entry_id, o.tenant_id, o.attempt_id, o.hold_id, o.price_id,
               max(o.amount) FILTER (WHERE o.account = 'receivable') AS charge
        FROM posted o WHERE o.attempt_id IS NOT NULL GROUP BY 1, 2, 3, 4, 5) AS p
  -- By the key alone: with the tenant in the condition each might be looked for among all that its tenant has.
  LEFT JOIN billing.usage u ON u.attempt_id = p.attempt_id
  LEFT JOIN billing.prices r ON r.price_id = p.price_id
  LEFT JOIN billing.holds h ON h.attempt_id = p.hold_id
  WHERE u.tenant_id IS DISTINCT FROM p.tenant_id OR r.price_id IS NULL
    OR p.hold_id IS NOT NULL AND h.tenant_id IS DISTINCT FROM p.tenant_id OR p.charge > h.amount
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'entry % %', wrong, why USING ERRCODE = 'foreign_key_violation';
  END IF;
  SELECT p.entry_id INTO wrong FROM posted p
  -- So that it can only be found by its entry: never by going through its tenant's month.
  LEFT JOIN billing.ledger l ON l.entry_id = p.reverses AND l.account = p.account
    AND l.tenant_id IS NOT DISTINCT FROM p.tenant_id AND l.month IS NOT DISTINCT FROM p.month
    AND l.kind <> 'reversal' AND l.attempt_id IS NOT DISTINCT FROM p.attempt_id AND l.amount = -p.amount
  WHERE p.kind = 'reversal'
  GROUP BY p.entry_id, p.reverses
  HAVING count(l.entry_id) <> count(*) OR count(*) <> (SELECT count(*) FROM billing.ledger o WHERE o.entry_id = p.reverses)
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'entry % is not the reversal of the entry that it names', wrong USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER founded AFTER INSERT ON billing.ledger REFERENCING NEW TABLE AS posted
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_unfounded();

-- Also where triggers are switched off for a session, as a replica's are: there is no such session of ours.
ALTER TABLE billing.ledger ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE billing.ledger ENABLE ALWAYS TRIGGER balanced;
ALTER TABLE billing.ledger ENABLE ALWAYS TRIGGER founded;

-- What the ledger names stays: nobody deletes it, the owner neither.
CREATE FUNCTION billing.refuse_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the ledger names rows of %: they are never deleted', TG_RELID::regclass
    USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON billing.usage FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_deletion();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON billing.holds FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_deletion();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON billing.prices FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_deletion();
ALTER TABLE billing.usage ENABLE ALWAYS TRIGGER kept;
ALTER TABLE billing.holds ENABLE ALWAYS TRIGGER kept;
ALTER TABLE billing.prices ENABLE ALWAYS TRIGGER kept;

-- Which plan a tenant has had since when, for ever: `day` is the tenant's day then, from which on the plan's fee counts.
-- The first one has no beginning of its own: it is the tenant's. Written by a trigger, so that nothing gets round it.
CREATE TABLE identity.tenant_plans (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id uuid NOT NULL,
  plan text NOT NULL REFERENCES identity.plans,
  day date NOT NULL,
  since timestamptz NOT NULL DEFAULT clock_timestamp(),
  set_by text NOT NULL,
  reason text NOT NULL
);
CREATE INDEX tenant_plans_of_tenant ON identity.tenant_plans (tenant_id, day, id);
CALL identity.protect('identity.tenant_plans', 'laneway_billing');
GRANT SELECT ON identity.tenant_plans TO laneway_billing, laneway_gateway;
INSERT INTO identity.tenant_plans (tenant_id, plan, day, since, set_by, reason)
SELECT t.tenant_id, t.plan, '-infinity', t.created_at, session_user, '' FROM identity.tenants t;

-- Who it is and why is said by `identity.put_plan`; else it is whoever has connected.
CREATE FUNCTION identity.keep_plan() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO identity.tenant_plans (tenant_id, plan, day, set_by, reason)
  VALUES (NEW.tenant_id, NEW.plan,
          CASE TG_OP WHEN 'INSERT' THEN '-infinity' ELSE billing.day_at(NEW.tenant_id, clock_timestamp()) END,
          coalesce(nullif(current_setting('laneway.plan_by', true), ''), session_user),
          coalesce(current_setting('laneway.plan_reason', true), ''));
  RETURN NULL;
END $$;
-- Else whoever may make a temporary table could put it on that, and write any tenant's history.
REVOKE ALL ON FUNCTION identity.keep_plan FROM PUBLIC;
CREATE TRIGGER begins AFTER INSERT ON identity.tenants FOR EACH ROW EXECUTE FUNCTION identity.keep_plan();
CREATE TRIGGER changes AFTER UPDATE OF plan ON identity.tenants
  FOR EACH ROW WHEN (OLD.plan IS DISTINCT FROM NEW.plan) EXECUTE FUNCTION identity.keep_plan();
CREATE FUNCTION identity.refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the history of plans is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON identity.tenant_plans
  FOR EACH STATEMENT EXECUTE FUNCTION identity.refuse_rewriting();
ALTER TABLE identity.tenant_plans ENABLE ALWAYS TRIGGER append_only;

-- A month that was closed, with what its plans came to then, which later corrections of the month go by. `plan` is the one
-- of its last day.
CREATE TABLE billing.months (
  tenant_id uuid NOT NULL,
  month date NOT NULL CHECK (extract(day FROM month) = 1),
  plan text NOT NULL,
  free_allowance_usd numeric(20, 10) NOT NULL,
  monthly_fee_usd numeric(20, 10) NOT NULL,
  closed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, month)
);
CALL identity.protect('billing.months', 'laneway_billing');
GRANT SELECT, INSERT ON billing.months TO laneway_billing;
GRANT SELECT ON billing.months TO laneway_gateway;

-- Of how many of its days the tenant had which plan, and what that comes to: the sums are those of `billing.months`.
CREATE TABLE billing.month_plans (
  tenant_id uuid NOT NULL,
  month date NOT NULL,
  plan text NOT NULL,
  days integer NOT NULL,
  of_days integer NOT NULL,
  fee_usd numeric(20, 10) NOT NULL,
  allowance_usd numeric(20, 10) NOT NULL,
  PRIMARY KEY (tenant_id, month, plan),
  FOREIGN KEY (tenant_id, month) REFERENCES billing.months,
  CHECK (days BETWEEN 1 AND of_days)
);
CALL identity.protect('billing.month_plans', 'laneway_billing');
GRANT SELECT, INSERT ON billing.month_plans TO laneway_billing;
GRANT SELECT ON billing.month_plans TO laneway_gateway;

-- A tenant's month by its plans, as they are known now: each day is its last plan's, and those before the tenant began are
-- nobody's. A share is a product before it is a quotient, so that it is rounded once, and a whole month is not at all.
CREATE FUNCTION billing.plans_of_month(p_tenant uuid, p_month date)
RETURNS TABLE (plan text, days integer, of_days integer, fee numeric, allowance numeric, lasts boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH began AS (
    SELECT (p_month + interval '1 month')::date AS ends,
           greatest(p_month, (t.created_at AT TIME ZONE t.time_zone)::date) AS begins
    FROM identity.tenants t WHERE t.tenant_id = p_tenant
  ), changes AS (
    SELECT DISTINCT ON (h.day) h.day, h.plan FROM identity.tenant_plans h
    WHERE h.tenant_id = p_tenant ORDER BY h.day, h.id DESC
  ), spans AS (
    SELECT c.plan, b.ends, greatest(c.day, b.begins) AS from_day,
           least(coalesce(lead(c.day) OVER (ORDER BY c.day), b.ends), b.ends) AS until_day
    FROM changes c CROSS JOIN began b
  ), summed AS (
    SELECT s.plan, sum(s.until_day - s.from_day)::integer AS days, max(s.ends) - p_month AS of_days,
           bool_or(s.until_day = s.ends) AS lasts
    FROM spans s WHERE s.until_day > s.from_day GROUP BY s.plan
  )
  SELECT s.plan, s.days, s.of_days, round(q.monthly_fee_usd * s.days / s.of_days, 10),
         round(q.free_allowance_usd * s.days / s.of_days, 10), s.lasts
  FROM summed s JOIN identity.plans q ON q.name = s.plan;
END $$;
REVOKE ALL ON FUNCTION billing.plans_of_month FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.plans_of_month TO laneway_billing, laneway_gateway;

RESET ROLE;
