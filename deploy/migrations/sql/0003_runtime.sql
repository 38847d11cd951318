-- One row for each task that was ever begun, parked or cancelled. The fence rises with each acquisition: whoever writes
-- names the fence it holds, and a worker that lost its lease changes nothing. What parks before it begins has fence 0.
CREATE TABLE runtime.runs (
  task_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  tier text NOT NULL,
  status text NOT NULL CHECK (status IN ('running', 'parked', 'completed', 'failed', 'cancelled', 'expired')),
  fence integer NOT NULL,
  attempts integer NOT NULL,
  calls integer NOT NULL DEFAULT 0,
  worker text,
  lease_until timestamptz,
  -- Of those with the same key only so many run at a time (see `runtime.parked`).
  concurrency_key text,
  -- How long it has waited without a slot since it first began: that is no part of the time that a run may take.
  parked_seconds double precision NOT NULL DEFAULT 0,
  cancel_requested_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  -- The terminal message as it is, or will be, published: stored in the transaction that decides it.
  outcome bytea
) WITH (fillfactor = 60);
CREATE INDEX runs_of_tenant ON runtime.runs (tenant_id, status);
CREATE INDEX runs_with_key ON runtime.runs (tenant_id, concurrency_key)
  WHERE concurrency_key IS NOT NULL AND status = 'running';
CALL identity.protect('runtime.runs', 'laneway_worker', 'laneway_persister', 'laneway_billing');

CREATE TABLE runtime.steps (
  task_id uuid NOT NULL,
  step integer NOT NULL,
  tenant_id uuid NOT NULL,
  fence integer NOT NULL,
  last_seq integer NOT NULL,
  state jsonb NOT NULL,
  finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (task_id, step)
);
CALL identity.protect('runtime.steps', 'laneway_worker');

GRANT SELECT ON runtime.runs TO laneway_gateway, laneway_worker, laneway_persister, laneway_billing;
GRANT SELECT ON runtime.steps TO laneway_worker;

-- Why a run cannot be had at the moment: what it waits for, and until when, or with how many at a time (see `runtime.parked`).
CREATE TYPE runtime.obstacle AS (reason text, key text, room integer, wake_at timestamptz);

-- decision: 'acquired' | 'finished' (outcome may be NULL where it was cancelled before it began) | 'leased' | 'parked'
-- (and `told` is what its stream is to say of that) | 'full' (something is in its way: ask again with the message, and it
-- is parked). Only a run with a cap, or with a message that may name conditions, can meet with the last two, or one that
-- somebody has paused, or cancelled many of its tenant's lately: the others cost one statement. A limited run is
-- acquired under the lock of its tenant, see `runtime.limits`.
-- `refusal` says why a run that was acquired is to be ended before it begins, `interrupted` which runs were cancelled for
-- one that is parked: the rules of conversations (see `runtime.turns`). `proposal` is the step that the run goes on with,
-- where that waited for people (see `runtime.proposals`).
CREATE FUNCTION runtime.acquire(p_task uuid, p_tenant uuid, p_tier text, p_worker text, p_lease interval,
  p_cap integer DEFAULT NULL, p_message bytea DEFAULT NULL, p_agent text DEFAULT NULL,
  OUT decision text, OUT status text, OUT fence integer, OUT attempts integer, OUT calls integer,
  OUT started_at timestamptz, OUT finished_at timestamptz, OUT lease_until timestamptz, OUT cancel_requested boolean,
  OUT outcome bytea, OUT steps jsonb, OUT parked_seconds double precision, OUT told jsonb, OUT refusal text,
  OUT interrupted uuid[], OUT proposal jsonb, OUT alone integer, OUT deferrals integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs; name text; obstacle runtime.obstacle; covered boolean := false;
BEGIN
  IF EXISTS (SELECT FROM runtime.cancellations c
             WHERE c.tenant_id = p_tenant AND c.as_of > now() - interval '1 day') THEN
    covered := runtime.is_cancelled(p_task, p_tenant, convert_from(p_message, 'UTF8')::json);
    IF covered IS NULL THEN
      decision := 'full';
      RETURN;
    ELSIF covered THEN
      PERFORM runtime.cancel(p_task, p_tenant, p_tier);
    END IF;
  END IF;
  IF NOT covered AND (p_cap IS NOT NULL OR p_message IS NOT NULL OR EXISTS (SELECT FROM runtime.pauses)) THEN
    name := convert_from(p_message, 'UTF8')::json ->> 'concurrency_key';
    obstacle := runtime.in_the_way(p_task, p_tenant, p_tier, p_agent, p_cap, convert_from(p_message, 'UTF8')::json);
    refusal := runtime.refusal_for(obstacle, p_message);
    IF refusal IS NOT NULL THEN
      name := NULL;  -- it is acquired to be ended, and takes up no place in a line
    ELSIF obstacle.reason IS NOT NULL AND p_message IS NULL THEN
      decision := 'full';
      RETURN;
    ELSIF obstacle.reason IS NOT NULL THEN
      PERFORM runtime.put_aside(p_task, p_tenant, p_tier, obstacle, p_message);
      interrupted := runtime.interrupt_for(p_tenant, obstacle, p_message);
    END IF;
  END IF;
  -- Whoever asks for a run that was woken has it, or finds it ended: it waits no more.
  WITH woken AS (DELETE FROM runtime.parked p WHERE p.task_id = p_task AND p.ready_at IS NOT NULL)
  INSERT INTO runtime.runs AS r (task_id, tenant_id, tier, status, fence, attempts, worker, lease_until, started_at, concurrency_key)
  VALUES (p_task, p_tenant, p_tier, 'running', 1, 1, p_worker, clock_timestamp() + p_lease, clock_timestamp(), name)
  ON CONFLICT (task_id) DO UPDATE
    SET status = 'running', fence = r.fence + 1, attempts = r.attempts + 1, worker = p_worker,
        alone = r.alone + (p_worker LIKE '%/alone')::integer,
        lease_until = clock_timestamp() + p_lease,
        parked_seconds = r.parked_seconds + CASE WHEN r.status = 'parked' AND r.started_at IS NOT NULL THEN coalesce(
          (SELECT extract(epoch FROM clock_timestamp() - p.parked_at) FROM runtime.parked p WHERE p.task_id = p_task), 0)
          ELSE 0 END,
        started_at = coalesce(r.started_at, clock_timestamp())
    WHERE r.tenant_id = p_tenant
      AND (r.status = 'running' AND r.lease_until < clock_timestamp() OR r.status = 'parked' AND NOT EXISTS (
        SELECT FROM runtime.parked p WHERE p.task_id = p_task AND p.ready_at IS NULL))
  RETURNING * INTO run;
  decision := 'acquired';
  IF NOT FOUND THEN
    SELECT * INTO STRICT run FROM runtime.runs r WHERE r.task_id = p_task AND r.tenant_id = p_tenant;
    decision := CASE run.status WHEN 'running' THEN 'leased' WHEN 'parked' THEN 'parked' ELSE 'finished' END;
    IF decision = 'parked' THEN
      SELECT p.told INTO told FROM runtime.parked p WHERE p.task_id = p_task;
    END IF;
  ELSIF run.fence > 1 THEN
    SELECT jsonb_agg(jsonb_build_object('step', s.step, 'fence', s.fence, 'last_seq', s.last_seq, 'state', s.state) ORDER BY s.step)
    INTO steps FROM runtime.steps s WHERE s.task_id = p_task;
    proposal := runtime.take_proposal(p_task);
  END IF;
  status := run.status; fence := run.fence; attempts := run.attempts; calls := run.calls;
  started_at := run.started_at; finished_at := run.finished_at; lease_until := run.lease_until;
  cancel_requested := run.cancel_requested_at IS NOT NULL; outcome := run.outcome; parked_seconds := run.parked_seconds;
  alone := run.alone; deferrals := run.deferrals;
END $$;

-- Renews the leases of a whole process in one statement. A run that is not in the answer was lost.
CREATE FUNCTION runtime.renew(p_tasks uuid[], p_fences integer[], p_lease interval)
RETURNS TABLE (task_id uuid, cancel_requested boolean)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH mine AS (
    SELECT r.task_id FROM runtime.runs r
    JOIN unnest(p_tasks, p_fences) AS m (task_id, fence) ON r.task_id = m.task_id AND r.fence = m.fence
    WHERE r.status = 'running' ORDER BY r.task_id FOR UPDATE OF r
  )
  UPDATE runtime.runs r SET lease_until = clock_timestamp() + p_lease
  FROM mine WHERE r.task_id = mine.task_id
  RETURNING r.task_id, r.cancel_requested_at IS NOT NULL
$$;

-- Before each model call, in one transaction: checks the fence, saves the step before it, takes the hold.
-- verdict: 'held' | 'fenced' | 'cancelled' | 'wait' | 'exceeded' | 'unpriced' | 'not_allowed'; see `billing.reserve`.
-- `waited` are the seconds for which the run has now waited for open holds, whichever worker had it meanwhile.
CREATE FUNCTION runtime.begin_call(
  p_task uuid, p_fence integer, p_saved_step integer, p_last_seq integer, p_state jsonb,
  p_attempt uuid, p_step integer, p_call integer, p_user text, p_provider text, p_model text,
  p_input_bound bigint, p_max_output bigint, p_run_cap numeric, p_conversation uuid DEFAULT NULL,
  p_input_estimate bigint DEFAULT NULL,
  OUT verdict text, OUT scope text, OUT amount numeric, OUT cap numeric, OUT subject text, OUT missing numeric,
  OUT renews_at timestamptz, OUT allowed text[], OUT waited double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs;
BEGIN
  UPDATE runtime.runs r SET calls = greatest(r.calls, p_call)
  WHERE r.task_id = p_task AND r.fence = p_fence AND r.status = 'running' RETURNING * INTO run;
  IF NOT FOUND THEN verdict := 'fenced'; RETURN; END IF;
  IF p_saved_step IS NOT NULL THEN
    INSERT INTO runtime.steps (task_id, step, tenant_id, fence, last_seq, state)
    VALUES (p_task, p_saved_step, run.tenant_id, p_fence, p_last_seq, p_state)
    ON CONFLICT (task_id, step) DO NOTHING;
  END IF;
  IF run.cancel_requested_at IS NOT NULL THEN verdict := 'cancelled'; RETURN; END IF;
  -- No call will be made: its answer is known, and costs nothing.
  IF p_attempt IS NULL THEN verdict := 'held'; RETURN; END IF;
  SELECT r.* INTO verdict, scope, amount, cap, subject, missing, renews_at, allowed
  FROM billing.reserve(p_attempt, run.tenant_id, p_user, p_task, p_fence, p_step, p_call, p_provider, p_model,
                       p_input_bound, p_max_output, p_run_cap, p_conversation, p_input_estimate) r;
  waited := extract(epoch FROM clock_timestamp() - coalesce(run.waits_for_holds_since, clock_timestamp()));
  IF (verdict = 'wait') <> (run.waits_for_holds_since IS NOT NULL) THEN
    UPDATE runtime.runs r SET waits_for_holds_since = CASE verdict WHEN 'wait' THEN clock_timestamp() END
    WHERE r.task_id = p_task;
  END IF;
END $$;

-- What `begin_call` does before the hold, for many runs at once. Answers the attempts that need nothing but their hold, each
-- in its place; NULL where another has the run, it is to be cancelled, waits for open holds, or makes no call.
CREATE FUNCTION runtime.ready_for_calls(p_tenants uuid[], p_tasks uuid[], p_fences integer[], p_saved_steps integer[],
  p_last_seqs integer[], p_states text[], p_attempts uuid[], p_calls integer[], OUT ready uuid[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  WITH locked AS MATERIALIZED (
    SELECT r.* FROM runtime.runs r WHERE r.task_id = ANY (p_tasks) ORDER BY r.task_id FOR NO KEY UPDATE
  ), begun AS MATERIALIZED (
    SELECT c.*, l.cancel_requested_at IS NULL AND l.waits_for_holds_since IS NULL AS ready
    FROM unnest(p_tenants, p_tasks, p_fences, p_attempts, p_calls, p_saved_steps, p_last_seqs, p_states) WITH ORDINALITY
      AS c (tenant_id, task_id, fence, attempt_id, call, saved_step, last_seq, state, n)
    JOIN locked l ON l.task_id = c.task_id AND l.fence = c.fence AND l.tenant_id = c.tenant_id AND l.status = 'running'
  ), counted AS (
    UPDATE runtime.runs r SET calls = greatest(r.calls, b.call)
    FROM (SELECT task_id, max(call) AS call FROM begun GROUP BY task_id) AS b WHERE r.task_id = b.task_id
  ), saved AS (
    INSERT INTO runtime.steps (task_id, step, tenant_id, fence, last_seq, state)
    SELECT b.task_id, b.saved_step, b.tenant_id, b.fence, b.last_seq, b.state::jsonb FROM begun b
    WHERE b.saved_step IS NOT NULL
    ON CONFLICT (task_id, step) DO NOTHING
  )
  SELECT array_agg(CASE WHEN b.ready THEN b.attempt_id END ORDER BY i.n) INTO ready
  FROM generate_series(1, cardinality(p_tasks)) AS i (n) LEFT JOIN begun b USING (n);
END $$;

-- Calls of many runs in one transaction, so that its commit, and the turn at a tenant's balances, are waited for once. The
-- arrays are parallel, and sorted by tenant. Locks are taken in everyone's order: runs by id, then tenants, then balances.
-- Most calls fit into their budgets: all holds of a tenant are taken together then. The others are asked for one by one.
CREATE FUNCTION runtime.begin_calls(
  p_tenants uuid[], p_tasks uuid[], p_fences integer[], p_saved_steps integer[], p_last_seqs integer[], p_states text[],
  p_attempts uuid[], p_steps integer[], p_calls integer[], p_users text[], p_providers text[], p_models text[],
  p_input_bounds bigint[], p_max_outputs bigint[], p_run_caps numeric[], p_conversations uuid[],
  p_input_estimates bigint[])
RETURNS TABLE (verdict text, scope text, amount numeric, cap numeric, subject text, missing numeric,
               renews_at timestamptz, allowed text[], waited double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE ready uuid[]; amounts numeric[];
BEGIN
  ready := runtime.ready_for_calls(p_tenants, p_tasks, p_fences, p_saved_steps, p_last_seqs, p_states, p_attempts, p_calls);
  -- By place; NULL is to be asked for.
  amounts := billing.reserve_together(ready, p_tenants, p_users, p_tasks, p_fences, p_steps, p_calls, p_providers, p_models,
                                      p_input_bounds, p_max_outputs, p_run_caps, p_conversations, p_input_estimates);
  IF array_position(amounts, NULL) IS NULL THEN
    RETURN QUERY SELECT 'held', NULL::text, a.amount, NULL::numeric, NULL::text, NULL::numeric, NULL::timestamptz,
                        NULL::text[], 0::double precision FROM unnest(amounts) AS a (amount);
    RETURN;
  END IF;
  FOR i IN 1..cardinality(p_tasks) LOOP
    IF amounts[i] IS NOT NULL THEN
      verdict := 'held'; amount := amounts[i]; waited := 0;
      scope := NULL; cap := NULL; subject := NULL; missing := NULL; renews_at := NULL; allowed := NULL;
    ELSE
      SELECT b.* INTO verdict, scope, amount, cap, subject, missing, renews_at, allowed, waited FROM runtime.begin_call(
        p_tasks[i], p_fences[i], p_saved_steps[i], p_last_seqs[i], p_states[i]::jsonb, p_attempts[i], p_steps[i],
        p_calls[i], p_users[i], p_providers[i], p_models[i], p_input_bounds[i], p_max_outputs[i], p_run_caps[i],
        p_conversations[i], p_input_estimates[i]) b;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;

-- Decides the end of a run, once: true where this call decided it, or had decided it before with the same fence.
-- With it goes what a completed run of a conversation adds to that, so that the next run cannot but see it.
CREATE FUNCTION runtime.finish(p_task uuid, p_fence integer, p_status text, p_outcome bytea, p_finished_at timestamptz,
  p_turn jsonb DEFAULT NULL, p_turn_bytes bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE others_wait boolean;
BEGIN
  UPDATE runtime.runs r SET status = p_status, outcome = p_outcome, finished_at = p_finished_at, lease_until = NULL
  WHERE r.task_id = p_task AND r.fence = p_fence AND r.status = 'running'
  RETURNING EXISTS (SELECT FROM runtime.parked p WHERE p.tenant_id = r.tenant_id AND p.ready_at IS NULL
                    AND p.reason IN ('running_cap', 'concurrency_key', 'conversation_busy')) INTO others_wait;
  IF others_wait THEN NOTIFY laneway_parking; END IF;
  IF others_wait IS NOT NULL AND p_turn IS NOT NULL THEN
    PERFORM runtime.add_turn(p_task, p_turn, p_turn_bytes, p_finished_at);
  END IF;
  IF others_wait IS NOT NULL THEN RETURN true; END IF;
  RETURN EXISTS (SELECT FROM runtime.runs r WHERE r.task_id = p_task AND r.fence = p_fence AND r.outcome = p_outcome);
END $$;

-- Ends the lease at once, for a worker that gives its run back: the next one need not wait for it to run out.
-- It is deferred where no model could be had: the broker brings it again, later each time.
CREATE FUNCTION runtime.release(p_task uuid, p_fence integer, p_saved_step integer, p_last_seq integer, p_state jsonb,
  p_deferred boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE tenant uuid;
BEGIN
  -- Said twice, because the first answer was lost, it gives back one attempt all the same.
  UPDATE runtime.runs r SET lease_until = clock_timestamp() - interval '1 second',
                            attempts = r.attempts - (r.lease_until > clock_timestamp())::int,
                            deferrals = r.deferrals + (p_deferred AND r.lease_until > clock_timestamp())::int,
                            alone = r.alone - (r.lease_until > clock_timestamp() AND r.worker LIKE '%/alone')::int
  WHERE r.task_id = p_task AND r.fence = p_fence AND r.status = 'running' RETURNING r.tenant_id INTO tenant;
  IF NOT FOUND THEN RETURN false; END IF;
  IF p_saved_step IS NOT NULL THEN
    INSERT INTO runtime.steps (task_id, step, tenant_id, fence, last_seq, state)
    VALUES (p_task, p_saved_step, tenant, p_fence, p_last_seq, p_state) ON CONFLICT (task_id, step) DO NOTHING;
  END IF;
  IF EXISTS (SELECT FROM runtime.parked p WHERE p.tenant_id = tenant AND p.ready_at IS NULL
             AND p.reason IN ('running_cap', 'concurrency_key', 'conversation_busy')) THEN
    NOTIFY laneway_parking;
  END IF;
  RETURN true;
END $$;

-- A cancel is durable here, whatever becomes of the bell that announces it. Answers what is true now:
-- 'cancelled' (it never ran, or has ended so), 'cancelling' (it runs, and will be cut), or the end it had before.
-- What is parked goes back to its lane at once: there it is found ended, or, where it had begun, is ended by a worker with
-- all that it did. Nothing of it is run.
CREATE FUNCTION runtime.cancel(p_task uuid, p_tenant uuid, p_tier text,
  OUT status text, OUT fence integer, OUT decided boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs;
BEGIN
  INSERT INTO runtime.runs AS r (task_id, tenant_id, tier, status, fence, attempts, cancel_requested_at, finished_at)
  VALUES (p_task, p_tenant, p_tier, 'cancelled', 1, 0, clock_timestamp(), clock_timestamp())
  ON CONFLICT (task_id) DO UPDATE
    SET status = CASE WHEN r.fence = 0 THEN 'cancelled' ELSE r.status END,
        fence = greatest(r.fence, 1),
        finished_at = CASE WHEN r.fence = 0 THEN clock_timestamp() ELSE r.finished_at END,
        cancel_requested_at = coalesce(r.cancel_requested_at, clock_timestamp())
    WHERE r.tenant_id = p_tenant AND r.status IN ('running', 'parked')
  RETURNING * INTO run;
  decided := FOUND;
  IF decided THEN
    UPDATE runtime.parked p SET reason = 'cancelled', key = '', wake_at = NULL,
                                ready_at = clock_timestamp(), published_at = NULL
    WHERE p.task_id = p_task AND p.reason <> 'cancelled';
    IF FOUND THEN NOTIFY laneway_parking; END IF;
  ELSE
    SELECT * INTO run FROM runtime.runs r WHERE r.task_id = p_task AND r.tenant_id = p_tenant;
  END IF;
  status := CASE WHEN run.status IN ('running', 'parked') THEN 'cancelling' ELSE run.status END;
  fence := run.fence;
END $$;

-- Ends a task that its lane refused, of which the record has its copy all the same. Changes nothing where a run exists.
CREATE FUNCTION runtime.refuse(p_task uuid, p_tenant uuid, p_tier text, p_outcome bytea, p_finished_at timestamptz)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts, outcome, finished_at)
  VALUES (p_task, p_tenant, p_tier, 'failed', 1, 0, p_outcome, p_finished_at)
  ON CONFLICT (task_id) DO NOTHING
$$;

REVOKE ALL ON FUNCTION runtime.acquire, runtime.renew, runtime.begin_call, runtime.begin_calls, runtime.ready_for_calls,
  runtime.finish, runtime.release, runtime.cancel, runtime.refuse FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.acquire, runtime.renew, runtime.begin_calls, runtime.finish, runtime.release TO laneway_worker;
-- The persister ends the runs of tasks whose message died.
GRANT EXECUTE ON FUNCTION runtime.acquire, runtime.finish TO laneway_persister;
GRANT EXECUTE ON FUNCTION runtime.cancel, runtime.refuse TO laneway_gateway;
