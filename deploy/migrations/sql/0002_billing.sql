-- Amounts are US dollars, exact; rates are US dollars for a million tokens.

CREATE TABLE billing.prices (
  price_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  provider text NOT NULL,
  model text NOT NULL,
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

-- What is spent and held in each scope. Rows of one transaction are always locked in the order of this key.
CREATE TABLE billing.balances (
  tenant_id uuid NOT NULL,
  scope text COLLATE "C" NOT NULL CHECK (scope IN ('run', 'tenant_day', 'tenant_month', 'user_day')),
  subject text COLLATE "C" NOT NULL,
  period date NOT NULL,
  cap numeric(20, 10) NOT NULL,
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
  price_id bigint NOT NULL REFERENCES billing.prices,
  amount numeric(20, 10) NOT NULL CHECK (amount >= 0),
  charged numeric(20, 10) CHECK (charged BETWEEN 0 AND amount),
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'in_doubt', 'settled', 'voided')),
  day date NOT NULL,
  opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  doubted_at timestamptz,
  resolved_at timestamptz,
  CHECK ((state = 'settled') = (charged IS NOT NULL))
) WITH (fillfactor = 70);
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
  price_id bigint REFERENCES billing.prices,
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
  account text NOT NULL,
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
GRANT SELECT, INSERT, UPDATE ON billing.balances, billing.holds TO laneway_billing;
GRANT SELECT, INSERT ON billing.usage, billing.ledger TO laneway_billing;
GRANT SELECT ON billing.usage, billing.holds, billing.balances, billing.ledger TO laneway_gateway;

-- Adds an amount to what is held in one scope, where it fits. NULL: it fits; otherwise 'wait' (only open holds are
-- in the way) or 'exceeded'.
CREATE FUNCTION billing.hold_in(p_tenant uuid, p_scope text, p_subject text, p_period date, p_cap numeric, p_amount numeric)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE spent numeric;
BEGIN
  INSERT INTO billing.balances AS b (tenant_id, scope, subject, period, cap, held)
  SELECT p_tenant, p_scope, p_subject, p_period, p_cap, p_amount WHERE p_amount <= p_cap
  ON CONFLICT (tenant_id, scope, subject, period) DO UPDATE
    SET held = b.held + p_amount, cap = p_cap WHERE b.charged + b.held + p_amount <= p_cap;
  IF FOUND THEN RETURN NULL; END IF;
  SELECT charged INTO spent FROM billing.balances
  WHERE tenant_id = p_tenant AND scope = p_scope AND subject = p_subject AND period = p_period;
  RETURN CASE WHEN coalesce(spent, 0) + p_amount <= p_cap THEN 'wait' ELSE 'exceeded' END;
END $$;

-- Whoever is to change balances of these tenants comes one after the other. Waiting for the rows themselves, many would wait
-- for a version that is old when they have it, and none of the old ones could be cleared away meanwhile: a tenant with
-- many calls at once would be slowed down by all that it did before. The rows are still locked, as the promise.
CREATE FUNCTION billing.queue_for(p_tenants uuid[]) RETURNS void LANGUAGE sql AS $$
  SELECT pg_advisory_xact_lock(7316018, t.key)
  FROM (SELECT DISTINCT hashtext(u.tenant_id::text) AS key FROM unnest(p_tenants) AS u (tenant_id) ORDER BY 1) AS t
$$;

-- Locks the balances that holds of these calls would be added to, as far as they exist, in the order of their key.
CREATE FUNCTION billing.lock_balances(p_tenants uuid[], p_tasks uuid[], p_users text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
BEGIN
  PERFORM FROM billing.balances b WHERE (b.tenant_id, b.scope, b.subject, b.period) IN (
    SELECT c.tenant_id, s.scope, s.subject, s.period FROM unnest(p_tenants, p_tasks, p_users) AS c (tenant_id, task_id, user_id)
    CROSS JOIN LATERAL (VALUES
      ('run', c.task_id::text, 'epoch'::date), ('tenant_day', '', today),
      ('tenant_month', '', date_trunc('month', today)::date), ('user_day', c.user_id, today)) AS s (scope, subject, period))
  ORDER BY b.tenant_id, b.scope, b.subject, b.period FOR NO KEY UPDATE OF b;
END $$;

-- Takes a hold for the worst case of one model call against every scope at once, or against none.
-- verdict: 'held' | 'wait' | 'exceeded' | 'unpriced'. Taking the same attempt's hold again is 'held' and changes nothing.
CREATE FUNCTION billing.reserve(
  p_attempt uuid, p_tenant uuid, p_user text, p_task uuid, p_fence integer, p_step integer, p_call integer,
  p_provider text, p_model text, p_input_bound bigint, p_max_output bigint, p_run_cap numeric,
  OUT verdict text, OUT scope text, OUT amount numeric, OUT cap numeric)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  price billing.prices;
  plan identity.plans;
  at timestamptz := clock_timestamp();
  today date := (at AT TIME ZONE 'UTC')::date;
  scopes text[] := ARRAY['run', 'tenant_day', 'tenant_month', 'user_day'];
  subjects text[]; periods date[]; caps numeric[];
BEGIN
  SELECT h.amount INTO amount FROM billing.holds h WHERE h.attempt_id = p_attempt;
  IF FOUND THEN verdict := 'held'; RETURN; END IF;
  SELECT * INTO price FROM billing.prices p
  WHERE p.provider = p_provider AND p.model = p_model AND p.superseded_at IS NULL
    AND p.valid_from <= at AND (p.valid_until IS NULL OR p.valid_until > at);
  IF NOT FOUND THEN verdict := 'unpriced'; RETURN; END IF;
  SELECT q.* INTO STRICT plan FROM identity.tenants t JOIN identity.plans q ON q.name = t.plan WHERE t.tenant_id = p_tenant;
  -- Only products, which are exact: a quotient would be rounded once before.
  amount := round((p_input_bound * price.input_ceiling_mtok + p_max_output * price.output_mtok) * 0.000001
                  * (1 + plan.markup_percent * 0.01), 10);
  subjects := ARRAY[p_task::text, '', '', coalesce(p_user, '')];
  periods := ARRAY['epoch'::date, today, date_trunc('month', today)::date, today];
  caps := ARRAY[least(coalesce(p_run_cap, plan.run_cap_usd), plan.run_cap_usd), plan.tenant_day_cap_usd,
                plan.tenant_month_cap_usd, plan.user_day_cap_usd];
  BEGIN
    FOR i IN 1..4 LOOP
      CONTINUE WHEN scopes[i] = 'user_day' AND p_user IS NULL;
      verdict := billing.hold_in(p_tenant, scopes[i], subjects[i], periods[i], caps[i], amount);
      IF verdict IS NOT NULL THEN
        scope := scopes[i]; cap := caps[i];
        RAISE EXCEPTION USING ERRCODE = 'LW001';
      END IF;
    END LOOP;
  EXCEPTION WHEN SQLSTATE 'LW001' THEN RETURN;  -- what was added to earlier scopes is rolled back with this block
  END;
  INSERT INTO billing.holds (attempt_id, tenant_id, user_id, task_id, fence, step, call, provider, model, price_id,
                             markup_percent, amount, day)
  VALUES (p_attempt, p_tenant, p_user, p_task, p_fence, p_step, p_call, p_provider, p_model, price.price_id,
          plan.markup_percent, amount, today);
  verdict := 'held';
END $$;
REVOKE ALL ON FUNCTION billing.reserve, billing.hold_in, billing.queue_for, billing.lock_balances FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.queue_for TO laneway_billing;
