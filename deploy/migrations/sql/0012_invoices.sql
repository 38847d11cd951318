SET ROLE laneway_owner;

-- What a tenant's invoice for a month says by what is posted now: usage by model, agent and user, and what its plan takes and
-- gives. Before the month is closed the last two are by the plan's present terms; after that they are posted, and these
-- lines are the postings: a fee is a line for each plan, by its days. The caller sees its own rows alone, as everywhere.
CREATE FUNCTION billing.invoice_draft(p_tenant uuid, p_month date)
RETURNS TABLE (kind text, provider text, model text, agent text, user_id text, calls bigint, input_tokens bigint,
               output_tokens bigint, amount numeric, plan text, days integer, of_days integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH posted AS (
    SELECT l.kind, l.attempt_id, l.amount FROM billing.ledger l
    WHERE l.tenant_id = p_tenant AND l.month = p_month AND l.account = 'receivable'
  ), usage AS (
    SELECT u.provider, u.model, u.agent, u.user_id, count(*) FILTER (WHERE p.kind = 'usage') AS calls,
           sum(u.input_tokens + u.cache_read_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens)
             FILTER (WHERE p.kind = 'usage') AS input_tokens,
           sum(u.output_tokens) FILTER (WHERE p.kind = 'usage') AS output_tokens, sum(p.amount) AS amount
    FROM posted p JOIN billing.usage u USING (attempt_id) GROUP BY 1, 2, 3, 4
  ), closed AS (
    SELECT m.free_allowance_usd FROM billing.months m WHERE m.tenant_id = p_tenant AND m.month = p_month
  ), plans AS (
    SELECT m.plan, m.days, m.of_days, m.fee_usd AS fee, m.allowance_usd AS allowance
    FROM billing.month_plans m WHERE m.tenant_id = p_tenant AND m.month = p_month
    UNION ALL
    SELECT n.plan, n.days, n.of_days, n.fee, n.allowance FROM billing.plans_of_month(p_tenant, p_month) n
    WHERE NOT EXISTS (SELECT FROM closed)
  ), terms AS (
    SELECT coalesce(sum(p.allowance), 0) AS free FROM plans p
  )
  SELECT 'usage', u.provider, u.model, u.agent, u.user_id, u.calls, coalesce(u.input_tokens, 0)::bigint,
         coalesce(u.output_tokens, 0)::bigint, u.amount, NULL, NULL::integer, NULL::integer FROM usage u
  UNION ALL
  SELECT 'allowance', NULL, NULL, NULL, NULL, 0, 0, 0, -least(t.free, (SELECT coalesce(sum(u.amount), 0) FROM usage u)),
         NULL, NULL, NULL FROM terms t
  UNION ALL
  SELECT 'fee', NULL, NULL, NULL, NULL, 0, 0, 0, p.fee, p.plan, p.days, p.of_days FROM plans p
$$;

-- Number 0 is a month's invoice; what is corrected after it is a credit note, which has the differences as its lines.
CREATE TABLE billing.invoices (
  invoice_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  tenant_id uuid NOT NULL,
  month date NOT NULL CHECK (extract(day FROM month) = 1),
  number integer NOT NULL CHECK (number >= 0),
  plan text NOT NULL,
  total numeric(20, 10) NOT NULL CHECK (number = 0 OR total <= 0),
  issued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  issued_by text NOT NULL CHECK (issued_by <> ''),
  UNIQUE (tenant_id, month, number),
  UNIQUE (invoice_id, tenant_id)
);
CALL identity.protect('billing.invoices', 'laneway_billing');

CREATE TABLE billing.invoice_lines (
  invoice_id uuid NOT NULL,
  line integer NOT NULL,
  tenant_id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('usage', 'allowance', 'fee')),
  provider text,
  model text,
  agent text,
  user_id text,
  calls bigint NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  amount numeric(20, 10) NOT NULL,
  -- Of a fee: whose, and for how many of the month's days.
  plan text,
  days integer,
  of_days integer,
  PRIMARY KEY (invoice_id, line),
  FOREIGN KEY (invoice_id, tenant_id) REFERENCES billing.invoices (invoice_id, tenant_id)
);
CALL identity.protect('billing.invoice_lines', 'laneway_billing');

CREATE FUNCTION billing.refuse_other_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'an invoice that was issued never changes: issue a credit note' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER issued BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.invoices
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_other_invoice();
CREATE TRIGGER issued BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.invoice_lines
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_other_invoice();
ALTER TABLE billing.invoices ENABLE ALWAYS TRIGGER issued;
ALTER TABLE billing.invoice_lines ENABLE ALWAYS TRIGGER issued;

CREATE FUNCTION billing.refuse_other_total() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wrong uuid;
BEGIN
  SELECT i.invoice_id INTO wrong FROM billing.invoices i LEFT JOIN billing.invoice_lines l USING (invoice_id)
  WHERE i.invoice_id IN (SELECT a.invoice_id FROM added a)
  GROUP BY i.invoice_id, i.total HAVING i.total <> coalesce(sum(l.amount), 0) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'the lines of invoice % do not sum to its total', wrong USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER added_up AFTER INSERT ON billing.invoices REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_other_total();
CREATE TRIGGER added_up AFTER INSERT ON billing.invoice_lines REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_other_total();
ALTER TABLE billing.invoices ENABLE ALWAYS TRIGGER added_up;
ALTER TABLE billing.invoice_lines ENABLE ALWAYS TRIGGER added_up;

GRANT SELECT, INSERT ON billing.invoices, billing.invoice_lines TO laneway_billing;
GRANT SELECT ON billing.invoices, billing.invoice_lines TO laneway_gateway;
REVOKE ALL ON FUNCTION billing.invoice_draft FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.invoice_draft TO laneway_billing, laneway_gateway;

RESET ROLE;
