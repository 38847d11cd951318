SET ROLE laneway_owner;

-- What a scope's cap was before it became another, and until when: with it the caps of every moment are known. Written by
-- a trigger only where a cap changes, so that a hold costs no more for it.
CREATE TABLE billing.earlier_caps (
  tenant_id uuid NOT NULL,
  scope text COLLATE "C" NOT NULL,
  subject text COLLATE "C" NOT NULL,
  period date NOT NULL,
  until timestamptz NOT NULL,
  cap numeric(20, 10),  -- NULL: there was none
  PRIMARY KEY (tenant_id, scope, subject, period, until)
);
CALL identity.protect('billing.earlier_caps', 'laneway_billing');
GRANT SELECT ON billing.earlier_caps TO laneway_billing, laneway_gateway;

-- By the same transaction that holds against the new cap, while it has the balance's lock.
CREATE FUNCTION billing.keep_earlier_cap() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO billing.earlier_caps (tenant_id, scope, subject, period, until, cap)
  VALUES (OLD.tenant_id, OLD.scope, OLD.subject, OLD.period, clock_timestamp(), OLD.cap) ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION billing.keep_earlier_cap FROM PUBLIC;
CREATE TRIGGER earlier_cap AFTER UPDATE OF cap ON billing.balances
  FOR EACH ROW WHEN (OLD.cap IS DISTINCT FROM NEW.cap) EXECUTE FUNCTION billing.keep_earlier_cap();

CREATE INDEX holds_of_day ON billing.holds (tenant_id, day);

-- Every scope that a hold of the month was taken against, with all that ever moved in it, from the holds and the ledger
-- alone: what was held and released, charged and given back. The caller sees its own rows alone, as everywhere.
CREATE FUNCTION billing.scope_moves(p_tenant uuid, p_month date)
RETURNS TABLE (scope text, subject text, period date, at timestamptz, opens boolean, held numeric, charged numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH of_month AS MATERIALIZED (
    SELECT h.* FROM billing.holds h
    WHERE h.tenant_id = p_tenant AND h.day >= p_month AND h.day < (p_month + interval '1 month')::date
  ), of_runs AS MATERIALIZED (
    SELECT * FROM of_month
    UNION ALL  -- a conversation of which other runs were in other months
    SELECT h.* FROM billing.holds h
    WHERE h.tenant_id = p_tenant
      AND h.conversation_id IN (SELECT o.conversation_id FROM of_month o WHERE o.conversation_id IS NOT NULL)
      AND h.task_id NOT IN (SELECT o.task_id FROM of_month o)
    UNION ALL  -- a run that goes on over the month's end
    SELECT h.* FROM billing.holds h
    WHERE h.tenant_id = p_tenant AND h.task_id IN (SELECT o.task_id FROM of_month o)
      AND NOT (h.day >= p_month AND h.day < (p_month + interval '1 month')::date)
  ), scoped AS (
    SELECT h.attempt_id, h.opened_at, h.resolved_at, h.state, h.amount, s.scope, s.subject, s.period
    FROM of_runs h CROSS JOIN LATERAL (VALUES
      ('conversation', h.conversation_id::text, 'epoch'::date), ('run', h.task_id::text, 'epoch'::date),
      ('tenant_day', '', h.day), ('tenant_month', '', date_trunc('month', h.day)::date), ('user_day', h.user_id, h.day)
    ) AS s (scope, subject, period)
    WHERE s.subject IS NOT NULL
      AND (s.scope IN ('conversation', 'run') OR h.day >= p_month AND h.day < (p_month + interval '1 month')::date)
  )
  SELECT s.scope COLLATE "C", s.subject COLLATE "C", s.period, e.at, e.opens, e.held, e.charged
  FROM scoped s LEFT JOIN billing.ledger l ON l.entry_id = s.attempt_id AND l.account = 'receivable'
  CROSS JOIN LATERAL (VALUES
    (s.opened_at, true, s.amount, 0::numeric),
    (CASE WHEN s.state IN ('settled', 'voided') THEN coalesce(s.resolved_at, s.opened_at) END, false, -s.amount, coalesce(l.amount, 0))
  ) AS e (at, opens, held, charged)
  WHERE e.at IS NOT NULL
  UNION ALL
  SELECT s.scope, s.subject, s.period, l.posted_at, false, 0, l.amount
  FROM billing.ledger l JOIN scoped s USING (attempt_id)
  WHERE l.account = 'receivable' AND l.kind IN ('reversal', 'correction') AND l.entry_id <> l.attempt_id
$$;

-- The same added up, moment by moment: for each scope what is held and charged now, and the moment at which a hold came
-- nearest to the cap of that moment, or exceeded it most.
CREATE FUNCTION billing.scope_peaks(p_tenant uuid, p_month date)
RETURNS TABLE (scope text, subject text, period date, holds bigint, held numeric, charged numeric, peak numeric, cap numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH running AS (
    SELECT m.*, sum(m.held) OVER w AS held_then, sum(m.charged) OVER w AS charged_then
    FROM billing.scope_moves(p_tenant, p_month) m
    WINDOW w AS (PARTITION BY m.scope, m.subject, m.period ORDER BY m.at, m.opens ROWS UNBOUNDED PRECEDING)
  ), changed AS (
    SELECT DISTINCT e.scope, e.subject, e.period FROM billing.earlier_caps e WHERE e.tenant_id = p_tenant
  ), capped AS (
    SELECT r.*, CASE WHEN e.until IS NULL THEN b.cap ELSE e.cap END AS cap_then
    FROM running r LEFT JOIN changed c USING (scope, subject, period)
    LEFT JOIN LATERAL (
      SELECT o.until, o.cap FROM billing.earlier_caps o
      WHERE c.scope IS NOT NULL AND o.tenant_id = p_tenant AND o.scope = r.scope AND o.subject = r.subject
        AND o.period = r.period AND o.until > r.at
      ORDER BY o.until LIMIT 1) AS e ON true
    LEFT JOIN billing.balances b
      ON b.tenant_id = p_tenant AND b.scope = r.scope AND b.subject = r.subject AND b.period = r.period
    WHERE r.opens
  ), fullest AS (
    SELECT DISTINCT ON (c.scope, c.subject, c.period) c.scope, c.subject, c.period,
           c.held_then + c.charged_then AS peak, c.cap_then AS cap
    FROM capped c
    ORDER BY c.scope, c.subject, c.period, c.cap_then - c.held_then - c.charged_then
  )
  SELECT t.scope, t.subject, t.period, t.holds, t.held, t.charged, f.peak, f.cap
  FROM (SELECT r.scope, r.subject, r.period, count(*) FILTER (WHERE r.opens) AS holds, sum(r.held) AS held,
               sum(r.charged) AS charged FROM running r GROUP BY 1, 2, 3) AS t
  JOIN fullest f USING (scope, subject, period)
$$;

-- What each call of the month is by its hold, its usage record and its postings. What one of them lacks is NULL.
CREATE FUNCTION billing.calls_of_month(p_tenant uuid, p_month date)
RETURNS TABLE (attempt_id uuid, state text, amount numeric, hold_charged numeric, used boolean, estimated boolean,
               cost numeric, charge numeric, variance numeric, posted_cost numeric, posted_charge numeric,
               posted_variance numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH held AS (
    SELECT h.attempt_id, h.state, h.amount, h.charged FROM billing.holds h
    WHERE h.tenant_id = p_tenant AND h.day >= p_month AND h.day < (p_month + interval '1 month')::date
  ), used AS (
    SELECT u.attempt_id, u.estimated, u.cost, u.charge, u.variance
    FROM billing.usage u LEFT JOIN billing.holds h ON h.attempt_id = u.attempt_id AND h.tenant_id = u.tenant_id
    WHERE u.tenant_id = p_tenant AND u.recorded_at >= (p_month - 2)::timestamp AT TIME ZONE 'UTC'
      AND coalesce(h.day, (u.recorded_at AT TIME ZONE 'UTC')::date) >= p_month
      AND coalesce(h.day, (u.recorded_at AT TIME ZONE 'UTC')::date) < (p_month + interval '1 month')::date
  ), posted AS (
    SELECT l.attempt_id, -coalesce(sum(l.amount) FILTER (WHERE l.account LIKE 'payable:%'), 0) AS cost,
           coalesce(sum(l.amount) FILTER (WHERE l.account = 'receivable'), 0) AS charge,
           coalesce(sum(l.amount) FILTER (WHERE l.account = 'variance'), 0) AS variance
    FROM billing.ledger l WHERE l.tenant_id = p_tenant AND l.month = p_month AND l.attempt_id IS NOT NULL GROUP BY 1
  )
  SELECT attempt_id, h.state, h.amount, h.charged, u.attempt_id IS NOT NULL, u.estimated, u.cost, u.charge, u.variance,
         p.cost, p.charge, p.variance
  FROM held h FULL JOIN used u USING (attempt_id) FULL JOIN posted p USING (attempt_id)
$$;

-- Everything in which a tenant's books of a month do not agree with each other, or with its caps. Nothing is the proof.
CREATE FUNCTION billing.proof_differences(p_tenant uuid, p_month date)
RETURNS TABLE (what text, subject text, expected numeric, found numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH peaks AS MATERIALIZED (
    SELECT p.* FROM billing.scope_peaks(p_tenant, p_month) p
  ), balanced AS (
    SELECT b.* FROM billing.balances b WHERE b.tenant_id = p_tenant
      AND (b.scope, b.subject, b.period) IN (SELECT p.scope, p.subject, p.period FROM peaks p)
    UNION
    SELECT b.* FROM billing.balances b WHERE b.tenant_id = p_tenant AND b.scope <> 'run'
      AND b.period >= p_month AND b.period < (p_month + interval '1 month')::date
  ), scopes AS (
    SELECT concat_ws(' ', scope, nullif(subject, ''), period) AS name, p.peak, p.cap, p.held, p.charged,
           coalesce(b.held, 0) AS balance_held, coalesce(b.charged, 0) AS balance_charged
    FROM peaks p FULL JOIN balanced b USING (scope, subject, period)
  ), calls AS MATERIALIZED (
    SELECT c.* FROM billing.calls_of_month(p_tenant, p_month) c
  ), posted AS (
    SELECT coalesce(sum(l.amount), 0) AS owed, coalesce(sum(l.amount) FILTER (WHERE l.attempt_id IS NOT NULL), 0) AS charges,
           coalesce(sum(l.amount) FILTER (WHERE l.kind = 'fee'), 0) AS fee,
           -coalesce(sum(l.amount) FILTER (WHERE l.kind = 'allowance'), 0) AS allowance
    FROM billing.ledger l WHERE l.tenant_id = p_tenant AND l.month = p_month AND l.account = 'receivable'
  ), invoiced AS (
    SELECT i.invoice_id, i.number, i.total, (SELECT coalesce(sum(n.amount), 0) FROM billing.invoice_lines n
                                             WHERE n.invoice_id = i.invoice_id) AS lines
    FROM billing.invoices i WHERE i.tenant_id = p_tenant AND i.month = p_month
  )
  SELECT 'held and charged above the cap', s.name, s.cap, s.peak FROM scopes s WHERE s.peak > s.cap
  UNION ALL SELECT 'balance of open holds', s.name, coalesce(s.held, 0), s.balance_held FROM scopes s
    WHERE coalesce(s.held, 0) <> s.balance_held
  UNION ALL SELECT 'balance of charges', s.name, coalesce(s.charged, 0), s.balance_charged FROM scopes s
    WHERE coalesce(s.charged, 0) <> s.balance_charged
  UNION ALL SELECT 'charge above its hold', c.attempt_id::text, coalesce(c.amount, 0), c.posted_charge FROM calls c
    WHERE c.posted_charge > coalesce(c.amount, 0)
  UNION ALL SELECT 'charge of a hold', c.attempt_id::text, coalesce(c.posted_charge, 0), coalesce(c.hold_charged, 0) FROM calls c
    WHERE c.state IS NOT NULL AND coalesce(c.posted_charge, 0) <> coalesce(c.hold_charged, 0)
  UNION ALL SELECT 'hold settled without usage, or not settled with it', c.attempt_id::text, c.used::int, 1 - c.used::int FROM calls c
    WHERE c.state = 'settled' AND NOT c.used OR c.state IN ('open', 'in_doubt') AND c.used AND c.cost IS NOT NULL
  UNION ALL SELECT 'usage without a price', c.attempt_id::text, NULL, NULL FROM calls c WHERE c.used AND c.cost IS NULL
  UNION ALL SELECT 'posting without usage', c.attempt_id::text, 0, c.posted_cost FROM calls c WHERE NOT c.used AND c.posted_cost IS NOT NULL
  UNION ALL SELECT 'cost of a call', c.attempt_id::text, c.cost, coalesce(c.posted_cost, 0) FROM calls c
    WHERE c.cost <> coalesce(c.posted_cost, 0)
  UNION ALL SELECT 'charge of a call', c.attempt_id::text, c.charge, coalesce(c.posted_charge, 0) FROM calls c
    WHERE c.charge <> coalesce(c.posted_charge, 0)
  UNION ALL SELECT 'variance of a call', c.attempt_id::text, c.variance, coalesce(c.posted_variance, 0) FROM calls c
    WHERE c.variance <> coalesce(c.posted_variance, 0)
  UNION ALL SELECT 'entry that does not sum to zero', l.entry_id::text, 0, sum(l.amount) FROM billing.ledger l
    WHERE l.tenant_id = p_tenant AND l.month = p_month GROUP BY l.entry_id HAVING sum(l.amount) <> 0
  UNION ALL SELECT 'fee of a closed month', to_char(p_month, 'YYYY-MM'), m.monthly_fee_usd, p.fee
    FROM billing.months m CROSS JOIN posted p
    WHERE m.tenant_id = p_tenant AND m.month = p_month AND m.monthly_fee_usd <> p.fee
  UNION ALL SELECT 'allowance of a closed month: close it again', to_char(p_month, 'YYYY-MM'),
                   least(m.free_allowance_usd, p.charges), p.allowance
    FROM billing.months m CROSS JOIN posted p
    WHERE m.tenant_id = p_tenant AND m.month = p_month AND least(m.free_allowance_usd, p.charges) <> p.allowance
  UNION ALL SELECT 'lines of an invoice', i.number::text, i.total, i.lines FROM invoiced i WHERE i.total <> i.lines
  UNION ALL SELECT 'invoices of what is posted: issue the credit note', to_char(p_month, 'YYYY-MM'), p.owed, sum(i.total)
    FROM invoiced i CROSS JOIN posted p GROUP BY p.owed HAVING sum(i.total) <> p.owed
  UNION ALL SELECT 'draft of what is posted', to_char(p_month, 'YYYY-MM'), p.charges, d.charges
    FROM posted p CROSS JOIN (SELECT coalesce(sum(n.amount), 0) AS charges
                              FROM billing.invoice_draft(p_tenant, p_month) n WHERE n.kind = 'usage') AS d
    WHERE p.charges <> d.charges
$$;

-- The sums side by side.
CREATE FUNCTION billing.proof_sums(p_tenant uuid, p_month date)
RETURNS TABLE (open bigint, in_doubt bigint, settled bigint, voided bigint, open_usd numeric, held_usd numeric,
               voided_usd numeric, calls bigint, estimated bigint, unpriced bigint, cost_usd numeric, charge_usd numeric,
               variance_usd numeric, posted_cost_usd numeric, posted_charge_usd numeric, posted_variance_usd numeric,
               fee_usd numeric, allowance_usd numeric, invoices bigint, invoiced_usd numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FILTER (WHERE c.state = 'open'), count(*) FILTER (WHERE c.state = 'in_doubt'),
         count(*) FILTER (WHERE c.state = 'settled'), count(*) FILTER (WHERE c.state = 'voided'),
         coalesce(sum(c.amount) FILTER (WHERE c.state IN ('open', 'in_doubt')), 0),
         coalesce(sum(c.amount) FILTER (WHERE c.state = 'settled'), 0), coalesce(sum(c.amount) FILTER (WHERE c.state = 'voided'), 0),
         count(*) FILTER (WHERE c.used), count(*) FILTER (WHERE c.estimated), count(*) FILTER (WHERE c.used AND c.cost IS NULL),
         coalesce(sum(c.cost), 0), coalesce(sum(c.charge), 0), coalesce(sum(c.variance), 0),
         coalesce(sum(c.posted_cost), 0), coalesce(sum(c.posted_charge), 0), coalesce(sum(c.posted_variance), 0),
         (SELECT coalesce(sum(l.amount) FILTER (WHERE l.kind = 'fee'), 0) FROM billing.ledger l
          WHERE l.tenant_id = p_tenant AND l.month = p_month AND l.account = 'receivable'),
         (SELECT -coalesce(sum(l.amount) FILTER (WHERE l.kind = 'allowance'), 0) FROM billing.ledger l
          WHERE l.tenant_id = p_tenant AND l.month = p_month AND l.account = 'receivable'),
         (SELECT count(*) FROM billing.invoices i WHERE i.tenant_id = p_tenant AND i.month = p_month),
         (SELECT sum(i.total) FROM billing.invoices i WHERE i.tenant_id = p_tenant AND i.month = p_month)
  FROM billing.calls_of_month(p_tenant, p_month) c
$$;

-- Whose books there are: every month of every tenant since it began, in order, from after a place in that order. The
-- present one is that of its own zone, where that is ahead.
CREATE FUNCTION billing.books(p_tenant uuid, p_month date, p_after_tenant uuid, p_after_month date, p_limit integer)
RETURNS TABLE (tenant_id uuid, month date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.tenant_id, m.month::date FROM identity.tenants t
  CROSS JOIN LATERAL generate_series(date_trunc('month', t.created_at AT TIME ZONE 'UTC'),
                                     greatest(clock_timestamp() AT TIME ZONE 'UTC',
                                              billing.day_at(t.tenant_id, clock_timestamp())), '1 month') AS m (month)
  WHERE (p_tenant IS NULL OR t.tenant_id = p_tenant) AND (p_month IS NULL OR m.month = p_month)
    AND (p_after_tenant IS NULL OR (t.tenant_id, m.month::date) > (p_after_tenant, p_after_month))
  ORDER BY 1, 2 LIMIT p_limit
$$;

REVOKE ALL ON FUNCTION billing.scope_moves, billing.scope_peaks, billing.calls_of_month, billing.proof_differences,
  billing.proof_sums, billing.books FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.scope_moves, billing.scope_peaks, billing.calls_of_month, billing.proof_differences,
  billing.proof_sums, billing.books TO laneway_gateway;
GRANT EXECUTE ON FUNCTION billing.scope_moves, billing.scope_peaks, billing.calls_of_month, billing.proof_differences,
  billing.proof_sums TO laneway_billing;

RESET ROLE;
