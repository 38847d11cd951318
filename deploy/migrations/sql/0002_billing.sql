-- Amounts are US dollars, exact; rates are US dollars for a million tokens.

CREATE TABLE billing.prices (
  price_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  provider text COLLATE "C" NOT NULL,
  model text COLLATE "C" NOT NULL,
  valid_from timestamptz NOT NULL,
  input_mtok numeric(20, 10) NOT NULL CHECK (input_mtok > 0),
  cache_read_mtok numeric(20, 10) NOT NULL CHECK (cache_read_mtok > 0),
  cache_write_5m_mtok numeric(20, 10) NOT NULL CHECK (cache_write_5m_mtok > 0),
  cache_write_1h_mtok numeric(20, 10) NOT NULL CHECK (cache_write_1h_mtok > 0),
  output_mtok numeric(20, 10) NOT NULL CHECK (output_mtok > 0),
  -- The dearest class that can apply to an input token, for holds.
  input_ceiling_mtok numeric(20, 10) GENERATED ALWAYS AS
    (greatest(input_mtok, cache_read_mtok, cache_write_5m_mtok, cache_write_1h_mtok)) STORED,
  source text NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (provider, model, valid_from)
);

-- What is spent and held in each scope. Rows of one transaction are always locked in the order of this key. `cap` is the one
-- that the last hold went by, NULL where there was none: of a conversation, as its plan may have none.
CREATE TABLE billing.balances (
  tenant_id uuid NOT NULL,
  scope text COLLATE "C" NOT NULL CHECK (scope IN ('conversation', 'run', 'tenant_day', 'tenant_month', 'user_day')),
  subject text COLLATE "C" NOT NULL,
  period date NOT NULL,
  cap numeric(20, 10),
  held numeric(20, 10) NOT NULL DEFAULT 0 CHECK (held >= 0),
  charged numeric(20, 10) NOT NULL DEFAULT 0 CHECK (charged >= 0),
  PRIMARY KEY (tenant_id, scope, subject, period)
) WITH (fillfactor = 50);
CALL identity.protect('billing.balances', 'laneway_billing');

CREATE TABLE billing.holds (
  attempt_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id text,
  task_id uuid NOT NULL,
  fence integer NOT NULL,
  step integer NOT NULL,
  call integer NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  -- Of the book, which whoever takes the hold has just read, and of which nothing is ever deleted. As a foreign key it would
  -- be locked for each call, and all calls of a model would write at its one row.
  price_id bigint NOT NULL,
  -- What the call will probably read. NULL: nobody has said.
  input_estimate bigint,
  amount numeric(20, 10) NOT NULL CHECK (amount >= 0),
  charged numeric(20, 10) CHECK (charged BETWEEN 0 AND amount),
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'in_doubt', 'settled', 'voided')),
  day date NOT NULL,
  opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  doubted_at timestamptz,
  resolved_at timestamptz,
  -- By what billing resolved a hold in doubt itself; of one whose record came after all it says nothing.
  policy text CHECK (policy IN ('received', 'platform_pays')),
  CHECK ((state = 'settled') = (charged IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX holds_doubted ON billing.holds (doubted_at, attempt_id) WHERE doubted_at IS NOT NULL;
CREATE INDEX holds_unresolved ON billing.holds (opened_at) WHERE state IN ('open', 'in_doubt');
CREATE INDEX holds_of_task ON billing.holds (task_id);
CALL identity.protect('billing.holds', 'laneway_billing');

CREATE TABLE billing.usage (
  attempt_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id text,
  task_id uuid NOT NULL,
  agent text NOT NULL,
  provider text NOT NULL,
  model text NOT NULL,
  step integer NOT NULL,
  call integer NOT NULL,
  input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
  cache_read_tokens bigint NOT NULL CHECK (cache_read_tokens >= 0),
  cache_write_5m_tokens bigint NOT NULL CHECK (cache_write_5m_tokens >= 0),
  cache_write_1h_tokens bigint NOT NULL CHECK (cache_write_1h_tokens >= 0),
  output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
  reasoning_tokens bigint NOT NULL CHECK (reasoning_tokens BETWEEN 0 AND output_tokens),
  vector jsonb NOT NULL,
  estimated boolean NOT NULL,
  provider_request_id text,
  price_id bigint,  -- no foreign key, as of a hold
  cost numeric(20, 10),
  charge numeric(20, 10),
  variance numeric(20, 10),
  metadata jsonb NOT NULL,
  recorded_at timestamptz NOT NULL,
  settled_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX usage_of_task ON billing.usage (task_id);
CREATE INDEX usage_of_tenant ON billing.usage (tenant_id, recorded_at);
CALL identity.protect('billing.usage', 'laneway_billing');

-- Double entry: the lines of one entry sum to zero. Debits are positive. Append-only for every role.
CREATE TABLE billing.ledger (
  attempt_id uuid NOT NULL,
  account text COLLATE "C" NOT NULL,
  tenant_id uuid NOT NULL,
  amount numeric(20, 10) NOT NULL,
  price_id bigint REFERENCES billing.prices,
  posted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (attempt_id, account)
);
CREATE INDEX ledger_of_tenant ON billing.ledger (tenant_id, posted_at);
CALL identity.protect('billing.ledger', 'laneway_billing');

CREATE FUNCTION billing.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the ledger is append-only: post a reversal instead' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.ledger
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change();

CREATE FUNCTION billing.refuse_imbalance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong uuid;
BEGIN
  SELECT entry_id INTO wrong FROM posted GROUP BY entry_id HAVING sum(amount) <> 0 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'the lines of entry % do not sum to zero', wrong USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER balanced AFTER INSERT ON billing.ledger REFERENCING NEW TABLE AS posted
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_imbalance();

-- Up to when each process of billing has settled what it was given. Nothing to keep: it is about the last moments.
CREATE TABLE billing.consumers (
  process uuid PRIMARY KEY,
  settled_until timestamptz NOT NULL
) WITH (fillfactor = 50);

GRANT SELECT ON billing.prices TO laneway_billing;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing.consumers TO laneway_billing;
GRANT INSERT ON billing.prices TO laneway_billing;
GRANT SELECT, INSERT, UPDATE ON billing.balances TO laneway_billing;
-- What a hold was taken for, and at which price, stays what it was.
GRANT SELECT, UPDATE (charged, state, doubted_at, resolved_at, policy) ON billing.holds TO laneway_billing;
GRANT SELECT, INSERT ON billing.usage, billing.ledger TO laneway_billing;
GRANT SELECT ON billing.usage, billing.holds, billing.balances, billing.ledger TO laneway_gateway;

-- Adds an amount to what is held in one scope, where it fits; a cap that is NULL is none. The verdict is NULL where it fits;
-- otherwise 'wait' (only open holds are in the way) or 'exceeded', with how much is missing.
CREATE FUNCTION billing.hold_in(p_tenant uuid, p_scope text, p_subject text, p_period date, p_cap numeric, p_amount numeric,
  OUT verdict text, OUT missing numeric)
LANGUAGE plpgsql AS $$
DECLARE now_held numeric; spent numeric;
BEGIN
  INSERT INTO billing.balances AS b (tenant_id, scope, subject, period, cap, held)
  SELECT p_tenant, p_scope, p_subject, p_period, p_cap, p_amount WHERE p_cap IS NULL OR p_amount <= p_cap
  ON CONFLICT (tenant_id, scope, subject, period) DO UPDATE
    SET held = b.held + p_amount, cap = p_cap WHERE p_cap IS NULL OR b.charged + b.held + p_amount <= p_cap;
  IF FOUND THEN RETURN; END IF;
  SELECT b.held, b.charged INTO now_held, spent FROM billing.balances b
  WHERE b.tenant_id = p_tenant AND b.scope = p_scope AND b.subject = p_subject AND b.period = p_period;
  missing := coalesce(spent, 0) + p_amount - p_cap;
  verdict := CASE WHEN missing <= 0 THEN 'wait' ELSE 'exceeded' END;
  IF verdict = 'wait' THEN missing := greatest(missing + coalesce(now_held, 0), 0); END IF;
END $$;

-- Whoever is to change balances of these tenants comes one after the other. Waiting for the rows themselves, many would wait
-- for a version that is old when they have it, and none of the old ones could be cleared away meanwhile: a tenant with
-- many calls at once would be slowed down by all that it did before. The rows are still locked, as the promise.
CREATE FUNCTION billing.queue_for(p_tenants uuid[]) RETURNS void LANGUAGE sql AS $$
  SELECT pg_advisory_xact_lock(7316018, t.key)
  FROM (SELECT DISTINCT hashtext(u.tenant_id::text) AS key FROM unnest(p_tenants) AS u (tenant_id) ORDER BY 1) AS t
$$;

-- A month by its first day. `date_trunc` would go through the server's time zone for it, each time.
CREATE FUNCTION billing.month_of(p_day date) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_day - (extract(day FROM p_day)::integer - 1)
$$;

-- Only products, which are exact: a quotient would be rounded once before.
CREATE FUNCTION billing.worst_case(p_input_bound bigint, p_input_mtok numeric, p_max_output bigint, p_output_mtok numeric,
  p_markup_percent numeric) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT round((p_input_bound * p_input_mtok + p_max_output * p_output_mtok) * 0.000001 * (1 + p_markup_percent * 0.01), 10)
$$;

-- Takes a hold for the worst case of one model call against every scope at once, or against none.
-- verdict: 'held' | 'wait' | 'exceeded' | 'unpriced' | 'not_allowed' (`allowed` are the plan's models). Taking the same
-- attempt's hold again is 'held' and changes nothing. Where it does not fit: in which scope, of whom, how much is missing,
-- and when its period ends.
CREATE FUNCTION billing.reserve(
  p_attempt uuid, p_tenant uuid, p_user text, p_task uuid, p_fence integer, p_step integer, p_call integer,
  p_provider text, p_model text, p_input_bound bigint, p_max_output bigint, p_run_cap numeric,
  p_conversation uuid DEFAULT NULL, p_input_estimate bigint DEFAULT NULL,
  OUT verdict text, OUT scope text, OUT amount numeric, OUT cap numeric, OUT subject text, OUT missing numeric,
  OUT renews_at timestamptz, OUT allowed text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  price billing.prices;
  plan identity.plans;
  at timestamptz;
  today date;
  scopes text[] := ARRAY['conversation', 'run', 'tenant_day', 'tenant_month', 'user_day'];
  subjects text[] := ARRAY[p_conversation::text, p_task::text, '', '', p_user];
  periods date[]; caps numeric[];
BEGIN
  SELECT h.amount INTO amount FROM billing.holds h WHERE h.attempt_id = p_attempt;
  IF FOUND THEN verdict := 'held'; RETURN; END IF;
  -- Whoever changes the tenant's caps, or its time zone, waits for the holds that go by the old ones.
  PERFORM pg_advisory_xact_lock_shared(7316017, hashtext(p_tenant::text));
  at := clock_timestamp();
  SELECT * INTO price FROM billing.prices p
  WHERE p.provider = p_provider AND p.model = p_model AND p.superseded_at IS NULL
    AND p.valid_from <= at AND (p.valid_until IS NULL OR p.valid_until > at);
  IF NOT FOUND THEN verdict := 'unpriced'; RETURN; END IF;
  SELECT q.* INTO STRICT plan FROM identity.tenants t JOIN identity.plans q ON q.name = t.plan WHERE t.tenant_id = p_tenant;
  IF p_model <> ALL (plan.allowed_models) THEN
    verdict := 'not_allowed'; allowed := plan.allowed_models;
    RETURN;
  END IF;
  amount := billing.worst_case(p_input_bound, price.input_ceiling_mtok, p_max_output, price.output_mtok, plan.markup_percent);
  today := billing.day_at(p_tenant, at);
  periods := ARRAY['epoch'::date, 'epoch'::date, today, billing.month_of(today), today];
  SELECT array_agg(CASE s.scope WHEN 'run' THEN least(c.cap, p_run_cap) ELSE c.cap END ORDER BY s.n) INTO caps
  FROM unnest(scopes, subjects) WITH ORDINALITY AS s (scope, subject, n)
  CROSS JOIN LATERAL billing.cap_of(p_tenant, s.scope, s.subject) AS c;
  BEGIN
    FOR i IN 1..5 LOOP
      CONTINUE WHEN subjects[i] IS NULL;
      SELECT h.verdict, h.missing INTO verdict, missing
      FROM billing.hold_in(p_tenant, scopes[i], subjects[i], periods[i], caps[i], amount) h;
      IF verdict IS NOT NULL THEN
        scope := scopes[i]; subject := subjects[i]; cap := caps[i];
        SELECT p.ends_at INTO renews_at FROM billing.period_of(p_tenant, scope, periods[i]) p;
        RAISE EXCEPTION USING ERRCODE = 'LW001';
      END IF;
    END LOOP;
  EXCEPTION WHEN SQLSTATE 'LW001' THEN  -- what was added to earlier scopes is rolled back with this block
    IF verdict = 'exceeded' AND amount <= cap THEN
      PERFORM billing.note_used_up(p_tenant, scope, subject, today, cap);
    END IF;
    RETURN;
  END;
  INSERT INTO billing.holds (attempt_id, tenant_id, user_id, task_id, conversation_id, fence, step, call, provider, model,
                             price_id, markup_percent, input_estimate, amount, day)
  VALUES (p_attempt, p_tenant, p_user, p_task, p_conversation, p_fence, p_step, p_call, p_provider, p_model,
          price.price_id, plan.markup_percent, p_input_estimate, amount, today);
  verdict := 'held';
END $$;
-- Holds that were ever in doubt, of one tenant or of all, the newest first, from before a place in that order: with what
-- became of them. `resolved` NULL: both those that are and those that are not.
CREATE FUNCTION billing.doubts(p_tenant uuid, p_resolved boolean, p_before timestamptz, p_before_attempt uuid, p_limit integer)
RETURNS TABLE (attempt_id uuid, tenant_id uuid, task_id uuid, user_id text, provider text, model text, amount numeric,
               charged numeric, opened_at timestamptz, doubted_at timestamptz, resolved_at timestamptz, policy text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT h.attempt_id, h.tenant_id, h.task_id, h.user_id, h.provider, h.model, h.amount, h.charged, h.opened_at,
         h.doubted_at, h.resolved_at, CASE WHEN h.state = 'settled' THEN coalesce(h.policy, 'own_record') ELSE h.policy END
  FROM billing.holds h
  WHERE h.doubted_at IS NOT NULL AND (p_tenant IS NULL OR h.tenant_id = p_tenant)
    AND (p_resolved IS NULL OR p_resolved = (h.state IN ('settled', 'voided')))
    AND (p_before IS NULL OR (h.doubted_at, h.attempt_id) < (p_before, p_before_attempt))
  ORDER BY h.doubted_at DESC, h.attempt_id DESC LIMIT p_limit
$$;
REVOKE ALL ON FUNCTION billing.doubts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.doubts TO laneway_gateway;


-- Takes the holds of many calls at once, of every tenant whose calls fit together into all their scopes: each balance is
-- changed once for all of them. Answers their amounts, each in its place. What has none is for `reserve`: of a tenant for
-- which they do not all fit, or held already, or without a price or leave. NULL is no attempt, and passed by.
-- It queues for the tenants, so that what fits then fits until it commits; all that needs no balance is done before that.
-- One plan for all batches, which goes by keys: it is made while the tables are small, and kept when they are not.
CREATE FUNCTION billing.reserve_together(
  p_attempts uuid[], p_tenants uuid[], p_users text[], p_tasks uuid[], p_fences integer[], p_steps integer[],
  p_calls integer[], p_providers text[], p_models text[], p_input_bounds bigint[], p_max_outputs bigint[],
  p_run_caps numeric[], p_conversations uuid[], p_input_estimates bigint[], OUT held numeric[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  at timestamptz;
  places integer[]; amounts numeric[]; price_ids bigint[]; markups numeric[]; days date[];
  owners uuid[]; scopes text[]; subjects text[]; periods date[]; wanted numeric[]; caps numeric[];
  fitting uuid[]; to_change bigint; changed bigint;
BEGIN
  -- Whoever changes the tenants' caps, or their time zones, waits for the holds that go by the old ones.
  PERFORM pg_advisory_xact_lock_shared(7316017, t.key)
  FROM (SELECT DISTINCT hashtext(u.tenant_id::text) AS key FROM unnest(p_tenants) AS u (tenant_id) ORDER BY 1) AS t;
  at := clock_timestamp();
  WITH tenants AS MATERIALIZED (
    SELECT t.tenant_id, billing.day_in(t.time_zone, t.zone_day, at) AS today, q.markup_percent, q.allowed_models,
           q.run_cap_usd, q.conversation_cap_usd, q.user_day_cap_usd, q.tenant_day_cap_usd, q.tenant_month_cap_usd,
           -- Not EXISTS, which may be answered from all that there are.
           (SELECT true FROM billing.budgets o WHERE o.tenant_id = t.tenant_id LIMIT 1) IS NOT NULL AS overridden
    FROM (SELECT DISTINCT u.tenant_id FROM unnest(p_tenants) AS u (tenant_id)) AS d
    JOIN identity.tenants t ON t.tenant_id = d.tenant_id JOIN identity.plans q ON q.name = t.plan
  ), priced AS MATERIALIZED (
    SELECT p.provider, p.model, p.price_id, p.input_ceiling_mtok, p.output_mtok
    FROM (SELECT DISTINCT u.provider, u.model FROM unnest(p_providers, p_models) AS u (provider, model)) AS d
    JOIN billing.prices p ON p.provider = d.provider AND p.model = d.model AND p.superseded_at IS NULL
      AND p.valid_from <= at AND (p.valid_until IS NULL OR p.valid_until > at)
  ), asked AS MATERIALIZED (
    SELECT DISTINCT ON (c.attempt_id) c.n::integer, c.user_id, c.task_id, c.run_cap, c.conversation_id, p.price_id, t.*,
      billing.worst_case(c.input_bound, p.input_ceiling_mtok, c.max_output, p.output_mtok, t.markup_percent) AS amount
    FROM unnest(p_attempts, p_tenants, p_users, p_tasks, p_providers, p_models, p_input_bounds, p_max_outputs, p_run_caps,
                p_conversations) WITH ORDINALITY
      AS c (attempt_id, tenant_id, user_id, task_id, provider, model, input_bound, max_output, run_cap, conversation_id, n)
    JOIN tenants t ON t.tenant_id = c.tenant_id
    JOIN priced p ON p.provider = c.provider AND p.model = c.model
    WHERE c.attempt_id IS NOT NULL AND (c.model <> ALL (t.allowed_models)) IS NOT TRUE
      AND NOT EXISTS (SELECT FROM billing.holds h WHERE h.attempt_id = c.attempt_id)
    ORDER BY c.attempt_id, c.n
  ), scoped AS (
    SELECT a.tenant_id, s.scope, s.subject, s.period, sum(a.amount) AS amount, min(s.own_cap) AS own_cap,
           min(s.plan_cap) AS plan_cap, bool_or(a.overridden) AS overridden
    FROM asked a CROSS JOIN LATERAL (VALUES
      ('conversation' COLLATE "C", a.conversation_id::text COLLATE "C", 'epoch'::date, NULL, a.conversation_cap_usd),
      ('run', a.task_id::text, 'epoch'::date, a.run_cap, a.run_cap_usd),
      ('tenant_day', '', a.today, NULL, a.tenant_day_cap_usd),
      ('tenant_month', '', billing.month_of(a.today), NULL, a.tenant_month_cap_usd),
      ('user_day', a.user_id, a.today, NULL, a.user_day_cap_usd)) AS s (scope, subject, period, own_cap, plan_cap)
    WHERE s.subject IS NOT NULL
    GROUP BY a.tenant_id, s.scope, s.subject, s.period
    ORDER BY a.tenant_id, s.scope, s.subject, s.period
  ), capped AS (
    SELECT array_agg(s.tenant_id) AS owners, array_agg(s.scope) AS scopes, array_agg(s.subject) AS subjects,
           array_agg(s.period) AS periods, array_agg(s.amount) AS wanted,
           -- Most tenants have their plan's caps.
           array_agg(least(s.own_cap, CASE WHEN s.overridden
             THEN (SELECT c.cap FROM billing.cap_of(s.tenant_id, s.scope, s.subject) AS c) ELSE s.plan_cap END)) AS caps
    FROM scoped s
  ), calls AS (
    SELECT array_agg(a.n) AS places, array_agg(a.amount) AS amounts, array_agg(a.price_id) AS price_ids,
           array_agg(a.markup_percent) AS markups, array_agg(a.today) AS days FROM asked a
  )
  SELECT c.places, c.amounts, c.price_ids, c.markups, c.days, s.owners, s.scopes, s.subjects, s.periods, s.wanted, s.caps
  INTO places, amounts, price_ids, markups, days, owners, scopes, subjects, periods, wanted, caps
  FROM calls c CROSS JOIN capped s;
  PERFORM billing.queue_for(p_tenants);
  -- A row that is there is found once, and changed where it was found. Where somebody did not queue it is another by then,
  -- and left alone, or measured anew.
  WITH found AS MATERIALIZED (
    SELECT w.*, b.ctid AS place, w.cap IS NULL OR coalesce(b.charged + b.held, 0) + w.amount <= w.cap AS fits
    FROM unnest(owners, scopes, subjects, periods, wanted, caps) AS w (tenant_id, scope, subject, period, amount, cap)
    LEFT JOIN billing.balances b ON b.tenant_id = w.tenant_id AND b.scope = w.scope AND b.subject = w.subject
      AND b.period = w.period
  ), fit AS MATERIALIZED (
    SELECT f.* FROM found f
    WHERE f.tenant_id <> ALL (ARRAY(SELECT DISTINCT o.tenant_id FROM found o WHERE NOT o.fits))
  ), moved AS (
    UPDATE billing.balances b SET held = b.held + f.amount, cap = f.cap FROM fit f
    WHERE b.ctid = f.place AND (f.cap IS NULL OR b.charged + b.held + f.amount <= f.cap)
    RETURNING b.tenant_id
  ), put AS (
    INSERT INTO billing.balances (tenant_id, scope, subject, period, cap, held)
    SELECT f.tenant_id, f.scope, f.subject, f.period, f.cap, f.amount FROM fit f WHERE f.place IS NULL
    ON CONFLICT DO NOTHING
    RETURNING tenant_id
  )
  SELECT (SELECT array_agg(DISTINCT f.tenant_id) FROM fit f), (SELECT count(*) FROM fit),
         (SELECT count(*) FROM moved) + (SELECT count(*) FROM put)
  INTO fitting, to_change, changed;
  IF changed <> to_change THEN
    RAISE EXCEPTION 'balances were changed by one who did not queue for them' USING ERRCODE = 'serialization_failure';
  END IF;
  -- A statement of its own: a hold is younger than the change of a cap that it goes by.
  INSERT INTO billing.holds (attempt_id, tenant_id, user_id, task_id, conversation_id, fence, step, call, provider, model,
                             price_id, markup_percent, input_estimate, amount, day)
  SELECT p_attempts[u.n], p_tenants[u.n], p_users[u.n], p_tasks[u.n], p_conversations[u.n], p_fences[u.n], p_steps[u.n],
         p_calls[u.n], p_providers[u.n], p_models[u.n], u.price_id, u.markup_percent, p_input_estimates[u.n], u.amount,
         u.today
  FROM unnest(places, price_ids, markups, amounts, days) AS u (n, price_id, markup_percent, amount, today)
  WHERE p_tenants[u.n] = ANY (fitting);
  held := array_fill(NULL::numeric, ARRAY[cardinality(p_attempts)]);
  FOR i IN 1..coalesce(cardinality(places), 0) LOOP
    IF p_tenants[places[i]] = ANY (fitting) THEN held[places[i]] := amounts[i]; END IF;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION billing.reserve, billing.reserve_together, billing.hold_in, billing.queue_for FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.queue_for TO laneway_billing;
