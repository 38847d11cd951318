SET ROLE laneway_owner;

-- Of a plan's tenants, how many tasks run at a time each; NULL: as many as there are slots. A tenant may have a cap of its
-- own; NULL: its plan's.
ALTER TABLE identity.plans ADD COLUMN max_running integer CHECK (max_running > 0);
ALTER TABLE identity.tenants ADD COLUMN max_running integer CHECK (max_running > 0);
-- Tasks that have not begun by then expire, wherever they wait.
ALTER TABLE history.tasks ADD COLUMN deadline_at timestamptz;
CREATE INDEX tasks_with_deadline ON history.tasks (deadline_at) WHERE status = 'queued' AND deadline_at IS NOT NULL;

-- Everything that waits without a slot. Its run has the status 'parked', and its message is here and in no lane, until it
-- is woken: then it is ready, and is published again. A run is acquired only once it is ready, and its row goes with that.
--
-- It waits for a time (`wake_at`), for room in a line, or for whoever calls `runtime.unpark`. A line is all that wait for
-- the same: one tenant, one reason, one key. How many of a line run is never counted in advance: it is read from the
-- leases, so that there is nothing to leak. What is ready has its room in the line reserved.
CREATE TABLE runtime.parked (
  task_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  tier text NOT NULL,
  reason text NOT NULL,
  key text NOT NULL DEFAULT '',
  -- How many of the line may run at a time, where the task itself says so.
  room integer,
  wake_at timestamptz,
  -- Its place in every line, which it keeps however often it parks: the tenant's own order, then the order of submission.
  -- A conversation's messages are answered in the order of their submission alone; 10 is one that interrupts.
  priority integer NOT NULL,
  submitted_at timestamptz NOT NULL,
  message bytea NOT NULL,
  -- The events that tell its stream of this, as far as they belong to the run's present fence.
  told jsonb NOT NULL,
  parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ready_at timestamptz,
  published_at timestamptz
);
CREATE INDEX parked_in_line ON runtime.parked (tenant_id, reason, key, priority DESC, submitted_at, task_id)
  WHERE ready_at IS NULL;
CREATE INDEX parked_until ON runtime.parked (wake_at, tenant_id, priority DESC, submitted_at, task_id)
  WHERE ready_at IS NULL AND wake_at IS NOT NULL;
CREATE INDEX parked_ready ON runtime.parked (tenant_id, reason, key) WHERE ready_at IS NOT NULL;
CREATE INDEX parked_by_pause ON runtime.parked (key, tenant_id) WHERE ready_at IS NULL AND reason = 'paused';
CREATE INDEX parked_to_publish ON runtime.parked (ready_at) WHERE ready_at IS NOT NULL AND published_at IS NULL;
CALL identity.protect('runtime.parked', 'laneway_persister');
GRANT SELECT ON runtime.parked TO laneway_gateway, laneway_persister;

-- For a batch of acquisitions: each one's cap, where its tenant's plan has one today. Who is limited by others of its
-- tenant, by that cap or because it takes turns with them (for a key, a conversation), is decided under a lock of its tenant, kept until the batch commits, so that two workers never both take the last place; the locks
-- are taken in one order. Where nobody is limited this is one look at the plans, and no lock.
CREATE FUNCTION runtime.limits(p_tenants uuid[], p_take_turns boolean[]) RETURNS integer[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE caps integer[]; limited integer[];
BEGIN
  SELECT array_agg(coalesce(t.max_running, p.max_running) ORDER BY a.n),
         array_agg(hashtext(a.tenant_id::text))
           FILTER (WHERE coalesce(t.max_running, p.max_running) IS NOT NULL OR a.takes_turns)
  INTO caps, limited
  FROM unnest(p_tenants, p_take_turns) WITH ORDINALITY AS a (tenant_id, takes_turns, n)
  LEFT JOIN identity.tenants t ON t.tenant_id = a.tenant_id LEFT JOIN identity.plans p ON p.name = t.plan;
  IF limited IS NOT NULL THEN
    PERFORM pg_advisory_xact_lock(7316004, o.tenant)
    FROM (SELECT DISTINCT l.tenant FROM unnest(limited) AS l (tenant) ORDER BY 1) AS o;
  END IF;
  RETURN caps;
END $$;

-- Runs of a line whose worker is alive.
CREATE FUNCTION runtime.running_in(p_tenant uuid, p_reason text, p_key text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_reason = 'concurrency_key' THEN
    RETURN (SELECT count(*) FROM runtime.runs r WHERE r.tenant_id = p_tenant AND r.concurrency_key = p_key
              AND r.status = 'running' AND r.lease_until > clock_timestamp());
  ELSIF p_reason = 'conversation_busy' THEN
    RETURN runtime.having_conversation(p_tenant, p_key::uuid);
  END IF;
  RETURN (SELECT count(*) FROM runtime.runs r
          WHERE r.tenant_id = p_tenant AND r.status = 'running' AND r.lease_until > clock_timestamp());
END $$;

CREATE FUNCTION runtime.ready_in(p_tenant uuid, p_reason text, p_key text) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FROM runtime.parked p
  WHERE p.tenant_id = p_tenant AND p.reason = p_reason AND p.key = p_key AND p.ready_at IS NOT NULL
$$;

-- Whether a run has no place in a line: one that was woken for it has the place that was kept for it; one that comes new
-- goes behind all that wait, or it would be those who come late that never wait. One that was woken for another line takes
-- what is free: if it went to the end of each line in turn, two lines could send their runs to each other for ever.
CREATE FUNCTION runtime.is_full(p_own runtime.parked, p_tenant uuid, p_reason text, p_key text, p_room integer) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_own.reason = p_reason AND p_own.key = p_key THEN
    RETURN runtime.running_in(p_tenant, p_reason, p_key) >= p_room;
  END IF;
  RETURN p_own.task_id IS NULL AND EXISTS (SELECT FROM runtime.parked p
                 WHERE p.tenant_id = p_tenant AND p.reason = p_reason AND p.key = p_key AND p.ready_at IS NULL)
      OR runtime.running_in(p_tenant, p_reason, p_key) + runtime.ready_in(p_tenant, p_reason, p_key) >= p_room;
END $$;

-- What is in the way of a run that could be begun now otherwise. The one place that knows the reasons to wait.
CREATE FUNCTION runtime.in_the_way(p_task uuid, p_tenant uuid, p_tier text, p_agent text, p_cap integer, p_asked json)
RETURNS runtime.obstacle
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs; own runtime.parked; name text := p_asked ->> 'concurrency_key'; at_once integer; pause text;
  unentered text;
BEGIN
  SELECT * INTO run FROM runtime.runs r WHERE r.task_id = p_task AND r.tenant_id = p_tenant FOR NO KEY UPDATE;
  IF FOUND AND (run.cancel_requested_at IS NOT NULL OR run.status NOT IN ('running', 'parked')
                OR run.status = 'running' AND run.lease_until >= clock_timestamp()) THEN RETURN NULL; END IF;
  SELECT * INTO own FROM runtime.parked p WHERE p.task_id = p_task;
  IF FOUND AND own.ready_at IS NULL THEN RETURN NULL; END IF;
  pause := runtime.pause_of(p_tier, p_tenant, coalesce(p_agent, p_asked ->> 'agent'));
  IF pause IS NOT NULL THEN RETURN ROW ('paused', pause, NULL, NULL)::runtime.obstacle; END IF;
  IF (p_asked ->> 'not_before')::timestamptz > clock_timestamp() THEN
    RETURN ROW ('not_before', '', NULL, (p_asked ->> 'not_before')::timestamptz)::runtime.obstacle;
  END IF;
  -- Before the other lines: who has its conversation keeps it, whatever else it waits for after this.
  IF p_asked ->> 'conversation_id' IS NOT NULL THEN
    unentered := runtime.enter_conversation(p_task, p_tenant, own, p_asked);
    IF unentered IS NOT NULL THEN RETURN ROW (unentered, p_asked ->> 'conversation_id', 1, NULL)::runtime.obstacle; END IF;
  END IF;
  IF name IS NOT NULL THEN
    at_once := coalesce((p_asked ->> 'concurrency_limit')::integer, 1);
    IF runtime.is_full(own, p_tenant, 'concurrency_key', name, at_once) THEN
      RETURN ROW ('concurrency_key', name, at_once, NULL)::runtime.obstacle;
    END IF;
  END IF;
  IF p_cap IS NOT NULL AND runtime.is_full(own, p_tenant, 'running_cap', '', p_cap) THEN
    RETURN ROW ('running_cap', '', NULL, NULL)::runtime.obstacle;
  END IF;
  RETURN NULL;
END $$;

-- Parks a run that nobody has. One whose worker died has a new fence, so that its worker says nothing after this.
CREATE FUNCTION runtime.put_aside(p_task uuid, p_tenant uuid, p_tier text, p_obstacle runtime.obstacle, p_message bytea)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE asked json := convert_from(p_message, 'UTF8')::json; run runtime.runs; said jsonb; event jsonb; stands text;
BEGIN
  SELECT p.told INTO said FROM runtime.parked p WHERE p.task_id = p_task;
  INSERT INTO runtime.runs AS r (task_id, tenant_id, tier, status, fence, attempts, concurrency_key)
  VALUES (p_task, p_tenant, p_tier, 'parked', 0, 0, asked ->> 'concurrency_key')
  ON CONFLICT (task_id) DO UPDATE
    SET status = 'parked', fence = r.fence + (r.status = 'running')::integer, worker = NULL, lease_until = NULL
    -- It may have been ended, or taken, by a transaction that was under way when it was looked at.
    WHERE r.tenant_id = p_tenant AND r.cancel_requested_at IS NULL
      AND (r.status = 'parked' OR r.status = 'running' AND r.lease_until < clock_timestamp())
  RETURNING * INTO run;
  IF NOT FOUND THEN RETURN; END IF;
  IF said IS NULL AND run.fence > 0 THEN
    SELECT s.fence || '-' || s.last_seq INTO stands FROM runtime.steps s WHERE s.task_id = p_task ORDER BY s.step DESC LIMIT 1;
    said := jsonb_build_array(jsonb_build_object('seq', 1, 'type', 'reset', 'at', clock_timestamp(),
                                                 'data', jsonb_build_object('after', stands, 'reason', 'parked')));
  END IF;
  said := coalesce(said, '[]');
  event := jsonb_build_object('status', 'parked', 'reason', p_obstacle.reason, 'key', nullif(p_obstacle.key, ''),
                              'until', p_obstacle.wake_at);
  -- What is the same as before is not said again; nor is it said for ever, however often a run goes from line to line.
  IF said -> -1 -> 'data' IS DISTINCT FROM event AND jsonb_array_length(said) < 50 THEN
    said := said || jsonb_build_object('seq', coalesce((said -> -1 ->> 'seq')::integer, 0) + 1, 'type', 'status',
                                       'at', clock_timestamp(), 'data', event);
  END IF;
  INSERT INTO runtime.parked AS p (task_id, tenant_id, tier, reason, key, room, wake_at, priority, submitted_at, message, told)
  VALUES (p_task, p_tenant, p_tier, p_obstacle.reason, p_obstacle.key, p_obstacle.room, p_obstacle.wake_at,
          CASE WHEN p_obstacle.reason <> 'conversation_busy' THEN (asked ->> 'priority')::integer
               WHEN asked ->> 'on_busy' = 'interrupt' THEN 10 ELSE 0 END,
          (asked ->> 'submitted_at')::timestamptz, p_message, said)
  ON CONFLICT (task_id) DO UPDATE
    SET reason = excluded.reason, key = excluded.key, room = excluded.room, wake_at = excluded.wake_at,
        priority = excluded.priority, told = excluded.told, ready_at = NULL, published_at = NULL;
  -- The waker may have to wake it sooner than it meant to look; and a place that was kept for it elsewhere is free.
  NOTIFY laneway_parking;
END $$;

-- Parks a run that its worker holds, with the step that is finished but not yet saved; false where another has the fence.
-- `p_needs` are the US dollars that one that waits for a budget is to find there (see `runtime.wake_for_budget`).
-- `p_told` is the event, durable already, by which its stream was told, as in `runtime.parked`. It costs no attempt.
-- With a cancel that was asked for meanwhile it is woken at once, for the next worker to end it.
-- `p_proposal` is the step that waits for people, where it is that what it waits for (see `runtime.proposals`).
CREATE FUNCTION runtime.park(p_task uuid, p_fence integer, p_reason text, p_key text, p_wake_at timestamptz, p_message bytea,
  p_told jsonb, p_saved_step integer, p_last_seq integer, p_state jsonb, p_proposal jsonb DEFAULT NULL,
  p_needs numeric DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs; asked json := convert_from(p_message, 'UTF8')::json;
BEGIN
  UPDATE runtime.runs r SET status = 'parked', worker = NULL, lease_until = NULL, attempts = r.attempts - 1,
                            alone = r.alone - (r.worker LIKE '%/alone')::int
  WHERE r.task_id = p_task AND r.fence = p_fence AND r.status = 'running' RETURNING * INTO run;
  IF NOT FOUND THEN  -- said twice, because the first answer was lost, it is true all the same
    RETURN EXISTS (SELECT FROM runtime.runs r WHERE r.task_id = p_task AND r.fence = p_fence AND r.status = 'parked');
  END IF;
  IF p_saved_step IS NOT NULL THEN
    INSERT INTO runtime.steps (task_id, step, tenant_id, fence, last_seq, state)
    VALUES (p_task, p_saved_step, run.tenant_id, p_fence, p_last_seq, p_state) ON CONFLICT (task_id, step) DO NOTHING;
  END IF;
  IF p_proposal IS NOT NULL THEN PERFORM runtime.propose(run, p_proposal); END IF;
  INSERT INTO runtime.parked (task_id, tenant_id, tier, reason, key, wake_at, priority, submitted_at, message, told,
                              ready_at, needs)
  VALUES (p_task, run.tenant_id, run.tier, p_reason, p_key, p_wake_at, (asked ->> 'priority')::integer,
          (asked ->> 'submitted_at')::timestamptz, p_message, p_told,
          CASE WHEN run.cancel_requested_at IS NOT NULL THEN clock_timestamp() END, p_needs)
  ON CONFLICT (task_id) DO UPDATE
    SET reason = excluded.reason, key = excluded.key, wake_at = excluded.wake_at, told = excluded.told,
        ready_at = excluded.ready_at, published_at = NULL, needs = excluded.needs;
  NOTIFY laneway_parking;
  RETURN true;
END $$;

-- Wakes all that wait for one thing, which has come about; how many.
CREATE FUNCTION runtime.unpark(p_tenant uuid, p_reason text, p_key text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH waiting AS (
    SELECT p.task_id FROM runtime.parked p
    WHERE p.tenant_id = p_tenant AND p.reason = p_reason AND p.key = p_key AND p.ready_at IS NULL
    ORDER BY p.task_id FOR UPDATE
  ), woken AS (
    UPDATE runtime.parked p SET ready_at = clock_timestamp() FROM waiting w WHERE p.task_id = w.task_id RETURNING p.task_id
  )
  SELECT count(pg_notify('laneway_parking', '')) FROM woken
$$;

-- Wakes what is due, and of each line as many as there is room for; how many. Called by one waker at a time, though two
-- would do no harm: who finds no place when it comes to run parks again. No tenant has more than `p_window` ready for a
-- time alone, since they go to the head of their lane.
-- Its rows come and go faster than statistics follow: that all is found by index, row by row, is not left to them.
CREATE FUNCTION runtime.wake(p_window integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE line record; waiting record; taken bigint; woken integer;
BEGIN
  -- What its time has come for, and what no pause holds back any more. The pauses that hold something are found one from
  -- the other, as the lines are below, and so are the tenants that wait for one that was lifted, and those with something
  -- due at one time: what goes on waiting is not looked at, and of each of these no more than may be woken, however much
  -- there is. `now()`, unlike the clock, can be looked up.
  WITH RECURSIVE held_by (key) AS (
    (SELECT p.key FROM runtime.parked p WHERE p.ready_at IS NULL AND p.reason = 'paused' ORDER BY p.key LIMIT 1)
    UNION ALL
    SELECT n.key FROM held_by h CROSS JOIN LATERAL (
      SELECT p.key FROM runtime.parked p WHERE p.ready_at IS NULL AND p.reason = 'paused' AND p.key > h.key
      ORDER BY p.key LIMIT 1) n
  ), lifted (key, tenant_id) AS (
    SELECT h.key, n.tenant_id FROM held_by h CROSS JOIN LATERAL (
      SELECT p.tenant_id FROM runtime.parked p WHERE p.ready_at IS NULL AND p.reason = 'paused' AND p.key = h.key
      ORDER BY p.tenant_id LIMIT 1) n
    WHERE NOT EXISTS (SELECT FROM runtime.pauses s WHERE s.scope || ':' || s.name = h.key)
    UNION ALL
    SELECT l.key, n.tenant_id FROM lifted l CROSS JOIN LATERAL (
      SELECT p.tenant_id FROM runtime.parked p
      WHERE p.ready_at IS NULL AND p.reason = 'paused' AND p.key = l.key AND p.tenant_id > l.tenant_id
      ORDER BY p.tenant_id LIMIT 1) n
  ), come (wake_at, tenant_id) AS (
    (SELECT p.wake_at, p.tenant_id FROM runtime.parked p WHERE p.ready_at IS NULL AND p.wake_at <= now()
     ORDER BY p.wake_at, p.tenant_id LIMIT 1)
    UNION ALL
    SELECT n.wake_at, n.tenant_id FROM come c CROSS JOIN LATERAL (
      SELECT p.wake_at, p.tenant_id FROM runtime.parked p
      WHERE p.ready_at IS NULL AND p.wake_at <= now() AND (p.wake_at, p.tenant_id) > (c.wake_at, c.tenant_id)
      ORDER BY p.wake_at, p.tenant_id LIMIT 1) n
  ), ready AS (
    SELECT p.tenant_id, count(*) AS n FROM runtime.parked p WHERE p.ready_at IS NOT NULL GROUP BY p.tenant_id
  ), due AS (
    SELECT d.* FROM come c LEFT JOIN ready r ON r.tenant_id = c.tenant_id CROSS JOIN LATERAL (
      SELECT p.task_id, p.tenant_id, p.priority, p.submitted_at FROM runtime.parked p
      WHERE p.ready_at IS NULL AND p.wake_at = c.wake_at AND p.tenant_id = c.tenant_id
      ORDER BY p.priority DESC, p.submitted_at, p.task_id LIMIT greatest(0, p_window - coalesce(r.n, 0))) d
    UNION ALL
    SELECT d.* FROM lifted l LEFT JOIN ready r ON r.tenant_id = l.tenant_id CROSS JOIN LATERAL (
      SELECT p.task_id, p.tenant_id, p.priority, p.submitted_at FROM runtime.parked p
      WHERE p.ready_at IS NULL AND p.tenant_id = l.tenant_id AND p.reason = 'paused' AND p.key = l.key
      ORDER BY p.priority DESC, p.submitted_at, p.task_id LIMIT greatest(0, p_window - coalesce(r.n, 0))) d
    -- Of many tenants, the rest at the next look: it is not to take longer than it may.
    LIMIT 10 * p_window
  ), in_order AS (
    SELECT d.task_id, d.tenant_id, row_number() OVER (PARTITION BY d.tenant_id ORDER BY d.priority DESC, d.submitted_at, d.task_id) AS n
    FROM due d
  ), next AS (
    SELECT p.task_id FROM in_order o JOIN runtime.parked p ON p.task_id = o.task_id LEFT JOIN ready r ON r.tenant_id = o.tenant_id
    WHERE p.ready_at IS NULL AND o.n <= p_window AND o.n <= p_window - coalesce(r.n, 0)
    ORDER BY p.task_id FOR UPDATE OF p SKIP LOCKED
  )
  UPDATE runtime.parked p SET ready_at = clock_timestamp() FROM next WHERE p.task_id = next.task_id;
  GET DIAGNOSTICS woken = ROW_COUNT;
  FOR line IN
    -- Each line once, found from the one before it in the index: a line of thousands is no longer to find than a short one.
    WITH RECURSIVE lines AS (
      (SELECT p.tenant_id, p.reason, p.key FROM runtime.parked p WHERE p.ready_at IS NULL
       ORDER BY p.tenant_id, p.reason, p.key LIMIT 1)
      UNION ALL
      SELECT n.tenant_id, n.reason, n.key FROM lines l CROSS JOIN LATERAL (
        SELECT p.tenant_id, p.reason, p.key FROM runtime.parked p
        WHERE p.ready_at IS NULL AND (p.tenant_id, p.reason, p.key) > (l.tenant_id, l.reason, l.key)
        ORDER BY p.tenant_id, p.reason, p.key LIMIT 1) n
    )
    SELECT l.tenant_id, l.reason, l.key, coalesce(t.max_running, p.max_running) AS max_running FROM lines l
    LEFT JOIN identity.tenants t ON t.tenant_id = l.tenant_id LEFT JOIN identity.plans p ON p.name = t.plan
    WHERE l.reason IN ('running_cap', 'concurrency_key', 'conversation_busy', 'budget')
  LOOP
    IF line.reason = 'budget' THEN
      woken := woken + runtime.wake_for_budget(line.tenant_id, line.key, p_window);
      CONTINUE;
    END IF;
    taken := runtime.running_in(line.tenant_id, line.reason, line.key) + runtime.ready_in(line.tenant_id, line.reason, line.key);
    FOR waiting IN
      SELECT p.task_id, p.room FROM runtime.parked p
      WHERE p.tenant_id = line.tenant_id AND p.reason = line.reason AND p.key = line.key AND p.ready_at IS NULL
      ORDER BY p.priority DESC, p.submitted_at, p.task_id LIMIT p_window
      FOR NO KEY UPDATE SKIP LOCKED
    LOOP
      -- In order: who is first and needs more room than there is keeps the others waiting, or it would wait for ever.
      EXIT WHEN taken >= CASE line.reason WHEN 'running_cap' THEN line.max_running ELSE waiting.room END;
      UPDATE runtime.parked p SET ready_at = clock_timestamp() WHERE p.task_id = waiting.task_id AND p.ready_at IS NULL;
      taken := taken + 1;
      woken := woken + 1;
    END LOOP;
  END LOOP;
  RETURN woken;
END $$;

-- Their messages are in their lanes. What has been parked again since is not meant.
CREATE FUNCTION runtime.note_published(p_tasks uuid[], p_ready timestamptz[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH known AS (
    SELECT p.task_id FROM runtime.parked p JOIN unnest(p_tasks, p_ready) AS k (task_id, ready_at)
      ON p.task_id = k.task_id AND p.ready_at = k.ready_at
    ORDER BY p.task_id FOR UPDATE OF p
  )
  UPDATE runtime.parked p SET published_at = clock_timestamp() FROM known k WHERE p.task_id = k.task_id
$$;

-- Ends a task whose deadline has passed before it began; false where it has begun, or ended.
CREATE FUNCTION runtime.expire(p_task uuid, p_tenant uuid, p_tier text, p_outcome bytea, p_finished_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO runtime.runs AS r (task_id, tenant_id, tier, status, fence, attempts, outcome, finished_at)
  VALUES (p_task, p_tenant, p_tier, 'expired', 1, 0, p_outcome, p_finished_at)
  ON CONFLICT (task_id) DO UPDATE
    SET status = 'expired', fence = 1, outcome = p_outcome, finished_at = p_finished_at
    WHERE r.tenant_id = p_tenant AND r.status = 'parked' AND r.fence = 0;
  IF NOT FOUND THEN RETURN false; END IF;
  DELETE FROM runtime.parked p WHERE p.task_id = p_task;
  IF FOUND THEN NOTIFY laneway_parking; END IF;
  RETURN true;
END $$;

REVOKE ALL ON FUNCTION runtime.limits, runtime.running_in, runtime.ready_in, runtime.is_full, runtime.in_the_way,
  runtime.put_aside, runtime.park, runtime.unpark, runtime.wake, runtime.note_published, runtime.expire FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.limits, runtime.park TO laneway_worker;
GRANT EXECUTE ON FUNCTION runtime.unpark, runtime.wake, runtime.note_published, runtime.expire TO laneway_persister;

RESET ROLE;
