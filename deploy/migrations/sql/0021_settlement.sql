SET ROLE laneway_owner;

-- Resolves holds, each once: settles them with their charge, or voids them where that is NULL. What they held is moved out
-- of every scope that they were taken against, and what is charged into it; of what those have spent of their caps it warns.
-- Answers how many there were to resolve. The caller has locked them; then tenants are queued for, then come balances: only
-- what needs those is done while others wait for them. One plan for all batches, which goes by keys.
CREATE FUNCTION billing.resolve(p_attempts uuid[], p_charges numeric[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  count bigint; owners uuid[]; scopes text[]; subjects text[]; periods date[]; released numeric[]; charges numeric[];
BEGIN
  WITH resolved AS (
    UPDATE billing.holds h
    SET state = CASE WHEN r.charge IS NULL THEN 'voided' ELSE 'settled' END, charged = r.charge,
        resolved_at = clock_timestamp()
    FROM unnest(p_attempts, p_charges) AS r (attempt_id, charge)
    -- Not that it is open or in doubt: then it might be looked for among all that are.
    WHERE h.attempt_id = r.attempt_id AND h.state NOT IN ('settled', 'voided')
    RETURNING h.tenant_id, h.user_id, h.task_id, h.conversation_id, h.day, h.amount, coalesce(r.charge, 0) AS charge
  ), moves AS (
    SELECT h.tenant_id, s.scope, s.subject, s.period, sum(h.amount) AS released, sum(h.charge) AS charged
    FROM resolved h CROSS JOIN LATERAL (VALUES
      ('conversation' COLLATE "C", h.conversation_id::text COLLATE "C", 'epoch'::date),
      ('run', h.task_id::text, 'epoch'::date), ('tenant_day', '', h.day), ('tenant_month', '', billing.month_of(h.day)),
      ('user_day', h.user_id, h.day)) AS s (scope, subject, period)
    WHERE s.subject IS NOT NULL
    GROUP BY h.tenant_id, s.scope, s.subject, s.period
    ORDER BY h.tenant_id, s.scope, s.subject, s.period
  )
  SELECT array_agg(m.tenant_id), array_agg(m.scope), array_agg(m.subject), array_agg(m.period), array_agg(m.released),
         array_agg(m.charged), (SELECT pg_catalog.count(*) FROM resolved)
  INTO owners, scopes, subjects, periods, released, charges, count FROM moves m;
  PERFORM billing.queue_for(owners);
  -- In the order of their key, should somebody not have queued.
  WITH moved AS (
    UPDATE billing.balances b SET held = b.held - m.released, charged = b.charged + m.charged
    FROM unnest(owners, scopes, subjects, periods, released, charges)
      AS m (tenant_id, scope, subject, period, released, charged)
    WHERE b.tenant_id = m.tenant_id AND b.scope = m.scope AND b.subject = m.subject AND b.period = m.period
    RETURNING b.*
  )
  INSERT INTO billing.budget_warnings (tenant_id, scope, subject, period, threshold, cap, charged)
  SELECT m.tenant_id, m.scope, m.subject, m.period, t.threshold, m.cap, m.charged
  FROM moved m CROSS JOIN (VALUES (50), (80), (100)) AS t (threshold)
  WHERE m.charged > 0 AND m.charged >= m.cap * t.threshold * 0.01
  ORDER BY m.tenant_id, m.scope, m.subject, m.period, t.threshold
  ON CONFLICT DO NOTHING;
  RETURN count;
END $$;

-- Files usage records, posts their entries and settles their holds. Answers which were not known before: what was filed
-- already changes nothing. `p_resolves` says of a record that it resolves its hold, with its charge; `p_lines` are
-- the entries' lines, each with the place of its record. All in one statement, so that its commit follows at once: the
-- balances are not kept from others while a client thinks.
CREATE FUNCTION billing.settle(
  p_attempts uuid[], p_tenants uuid[], p_users text[], p_tasks uuid[], p_agents text[], p_providers text[],
  p_models text[], p_steps integer[], p_calls integer[], p_input_tokens bigint[], p_cache_read_tokens bigint[],
  p_cache_write_5m_tokens bigint[], p_cache_write_1h_tokens bigint[], p_output_tokens bigint[],
  p_reasoning_tokens bigint[], p_vectors text[], p_estimated boolean[], p_request_ids text[], p_price_ids bigint[],
  p_costs numeric[], p_charges numeric[], p_variances numeric[], p_metadata text[], p_recorded_at timestamptz[],
  p_held boolean[], p_resolves boolean[], p_months date[], p_lines integer[], p_accounts text[], p_amounts numeric[])
RETURNS uuid[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE new uuid[]; all_new boolean; attempts uuid[]; charges numeric[];
BEGIN
  -- Before the records, as whoever gives holds up has them locked when it files what it found.
  PERFORM FROM billing.holds h WHERE h.attempt_id = ANY (p_attempts) ORDER BY h.attempt_id FOR NO KEY UPDATE;
  -- The attempt is the key: a record that was filed before changes nothing, whoever delivers it again. Sorted, so that
  -- two batches with the same attempts wait for each other in one direction only.
  WITH filed AS (
    INSERT INTO billing.usage (attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call, input_tokens,
      cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, vector, estimated,
      provider_request_id, price_id, cost, charge, variance, metadata, recorded_at)
    SELECT r.attempt_id, r.tenant_id, r.user_id, r.task_id, r.agent, r.provider, r.model, r.step, r.call, r.input_tokens,
      r.cache_read_tokens, r.cache_write_5m_tokens, r.cache_write_1h_tokens, r.output_tokens, r.reasoning_tokens,
      r.vector::jsonb, r.estimated, r.provider_request_id, r.price_id, r.cost, r.charge, r.variance, r.metadata::jsonb,
      r.recorded_at
    FROM unnest(p_attempts, p_tenants, p_users, p_tasks, p_agents, p_providers, p_models, p_steps, p_calls, p_input_tokens,
                p_cache_read_tokens, p_cache_write_5m_tokens, p_cache_write_1h_tokens, p_output_tokens, p_reasoning_tokens,
                p_vectors, p_estimated, p_request_ids, p_price_ids, p_costs, p_charges, p_variances, p_metadata,
                p_recorded_at)
      AS r (attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call, input_tokens, cache_read_tokens,
            cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, vector, estimated,
            provider_request_id, price_id, cost, charge, variance, metadata, recorded_at)
    ORDER BY r.attempt_id
    ON CONFLICT (attempt_id) DO NOTHING
    RETURNING attempt_id
  )
  SELECT coalesce(array_agg(f.attempt_id), '{}') INTO new FROM filed f;
  all_new := cardinality(new) = cardinality(p_attempts);
  INSERT INTO billing.ledger (entry_id, kind, account, tenant_id, month, amount, attempt_id, hold_id, price_id)
  SELECT p_attempts[l.n], 'usage', l.account, p_tenants[l.n], p_months[l.n], l.amount, p_attempts[l.n],
         CASE WHEN p_held[l.n] THEN p_attempts[l.n] END, p_price_ids[l.n]
  FROM unnest(p_lines, p_accounts, p_amounts) AS l (n, account, amount)
  WHERE all_new OR p_attempts[l.n] = ANY (new);
  SELECT array_agg(r.attempt_id), array_agg(r.charge) INTO attempts, charges
  FROM unnest(p_attempts, p_charges, p_resolves) AS r (attempt_id, charge, resolves)
  WHERE r.resolves AND (all_new OR r.attempt_id = ANY (new));
  -- It was priced by what its hold was a moment ago: if that was given up since, it is to be priced again.
  IF billing.resolve(attempts, charges) <> cardinality(attempts) THEN
    RAISE EXCEPTION 'holds were resolved meanwhile' USING ERRCODE = 'serialization_failure';
  END IF;
  RETURN new;
END $$;

REVOKE ALL ON FUNCTION billing.resolve, billing.settle FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.resolve, billing.settle TO laneway_billing;

RESET ROLE;
