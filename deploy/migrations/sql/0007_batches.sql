SET ROLE laneway_owner;

-- The broker's priority, for the place in the lane; and the place in a batch, for those that were submitted in one.
ALTER TABLE history.tasks
  ADD COLUMN level integer,
  ADD COLUMN batch_id uuid,
  ADD COLUMN batch_index integer,
  ADD COLUMN batch_size integer,
  ADD CHECK ((batch_id IS NULL) = (batch_index IS NULL) AND (batch_id IS NULL) = (batch_size IS NULL));
CREATE INDEX tasks_of_batch ON history.tasks (batch_id, batch_index) WHERE batch_id IS NOT NULL;
-- Of what is open, by lane: read whole, now and then, to tell how long the lanes are.
CREATE INDEX tasks_waiting ON history.tasks (tier, level, submitted_at, task_id) WHERE status = 'queued';
CREATE INDEX runs_open ON runtime.runs (tier, status) WHERE status IN ('running', 'parked');
CREATE INDEX runs_started ON runtime.runs (started_at);

-- Cancels of many tasks at once: a batch's, or a tenant's that were submitted until `as_of`, as far as the filters fit.
-- The row is there before anything is cancelled: what is recorded later is held against it, and what a gateway has left
-- undone the persister finishes. `reached` is how far it is, in the order of the index on a tenant's open tasks.
CREATE TABLE runtime.cancellations (
  cancellation_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  as_of timestamptz NOT NULL,
  status text CHECK (status IN ('queued', 'running', 'parked')),
  batch_id uuid,
  metadata jsonb,
  conversation_id uuid,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  worked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  reached_at timestamptz,
  reached_task uuid,
  swept_at timestamptz
);
CREATE INDEX cancellations_of_tenant ON runtime.cancellations (tenant_id, as_of);
CREATE INDEX cancellations_unswept ON runtime.cancellations (worked_at) WHERE swept_at IS NULL;
CALL identity.protect('runtime.cancellations');

-- Whether a cancel covers a task: submitted in time (what is published late for a cancelled batch comes too late), and
-- as the filters ask. `p_status` is what is true of the task at this moment.
CREATE FUNCTION runtime.covers(c runtime.cancellations, t history.tasks, p_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT t.tenant_id = c.tenant_id
    AND (c.batch_id IS NULL OR t.batch_id = c.batch_id)
    AND (c.conversation_id IS NULL OR t.conversation_id = c.conversation_id)
    AND (t.submitted_at <= c.as_of)
    AND (c.status IS NULL OR p_status = c.status)
    AND (c.metadata IS NULL OR t.metadata @> c.metadata)
$$;

-- Whether a cancel of many covers a task that is about to begin, whoever has got to it first: this, the sweep, or its record.
-- NULL where it is not recorded and the message, which knows as much, was not given. A cancel by `running` or `parked` is not
-- asked: it is for what was so when the cancel reached it. What was there is `queued` no more once it has a run.
CREATE FUNCTION runtime.is_cancelled(p_task uuid, p_tenant uuid, p_asked json) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs; task history.tasks;
BEGIN
  SELECT * INTO run FROM runtime.runs r WHERE r.task_id = p_task AND r.tenant_id = p_tenant;
  IF run.status NOT IN ('running', 'parked') OR run.cancel_requested_at IS NOT NULL THEN RETURN false; END IF;
  SELECT * INTO task FROM history.tasks t WHERE t.task_id = p_task AND t.tenant_id = p_tenant;
  IF task.submitted_at IS NULL THEN
    IF p_asked IS NULL THEN RETURN NULL; END IF;
    task.tenant_id := p_tenant;
    task.submitted_at := (p_asked ->> 'submitted_at')::timestamptz;
    task.batch_id := (p_asked -> 'batch' ->> 'id')::uuid;
    task.metadata := (p_asked -> 'metadata')::jsonb;
    task.conversation_id := (p_asked ->> 'conversation_id')::uuid;
  END IF;
  RETURN EXISTS (SELECT FROM runtime.cancellations c
                 WHERE c.tenant_id = p_tenant AND c.as_of >= task.submitted_at AND (c.status IS NULL OR c.status = 'queued')
                   AND runtime.covers(c, task, coalesce(run.status, 'queued')));
END $$;

CREATE FUNCTION runtime.begin_cancellation(
  p_id uuid, p_tenant uuid, p_as_of timestamptz, p_status text, p_batch uuid, p_metadata jsonb,
  p_conversation uuid DEFAULT NULL) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO runtime.cancellations (cancellation_id, tenant_id, as_of, status, batch_id, metadata, conversation_id)
  VALUES (p_id, p_tenant, p_as_of, p_status, p_batch, p_metadata, p_conversation);
  -- Longer than a message can be on its way to its record.
  DELETE FROM runtime.cancellations WHERE tenant_id = p_tenant AND as_of < p_as_of - interval '30 days' AND swept_at IS NOT NULL;
$$;

-- Cancels the next tasks that a cancel of many covers, at most so many, each as `runtime.cancel` does, in the order of
-- their ids. Fewer rows than the limit do not mean that it is through; `swept_at` does.
CREATE FUNCTION runtime.sweep(p_id uuid, p_limit integer)
RETURNS TABLE (task_id uuid, tenant_id uuid, tier text, priority integer, batch_id uuid, status text, fence integer, decided boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE c runtime.cancellations; looked_at uuid[]; last_at timestamptz; last_task uuid;
BEGIN
  SELECT * INTO c FROM runtime.cancellations k WHERE k.cancellation_id = p_id AND k.swept_at IS NULL FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  IF c.batch_id IS NOT NULL THEN
    SELECT array_agg(t.task_id) INTO looked_at FROM history.tasks t
    WHERE t.batch_id = c.batch_id AND t.tenant_id = c.tenant_id AND t.status = 'queued';
    UPDATE runtime.cancellations k SET swept_at = clock_timestamp() WHERE k.cancellation_id = p_id;
  ELSE
    SELECT array_agg(n.task_id), min(n.submitted_at), (array_agg(n.task_id ORDER BY n.submitted_at, n.task_id))[1]
    INTO looked_at, last_at, last_task
    FROM (SELECT t.task_id, t.submitted_at FROM history.tasks t
          WHERE t.tenant_id = c.tenant_id AND t.status = 'queued' AND t.submitted_at <= c.as_of
            AND (c.conversation_id IS NULL OR t.conversation_id = c.conversation_id)
            AND (c.reached_at IS NULL OR (t.submitted_at, t.task_id) < (c.reached_at, c.reached_task))
          ORDER BY t.submitted_at DESC, t.task_id DESC LIMIT p_limit) n;
    UPDATE runtime.cancellations k SET worked_at = clock_timestamp(),
      reached_at = coalesce(last_at, k.reached_at), reached_task = coalesce(last_task, k.reached_task),
      swept_at = CASE WHEN coalesce(cardinality(looked_at), 0) < p_limit THEN clock_timestamp() END
    WHERE k.cancellation_id = p_id;
  END IF;
  RETURN QUERY
    SELECT o.task_id, o.tenant_id, o.tier, o.priority, o.batch_id, x.status, x.fence, x.decided
    FROM (SELECT t.* FROM history.tasks t LEFT JOIN runtime.runs r ON r.task_id = t.task_id
          WHERE t.task_id = ANY (looked_at) AND (r.task_id IS NULL OR r.status IN ('running', 'parked'))
            AND runtime.covers(c, t, coalesce(r.status, 'queued'))
          ORDER BY t.task_id) o
    CROSS JOIN LATERAL runtime.cancel(o.task_id, o.tenant_id, o.tier) x;
END $$;

-- Those of the tasks, which have just been recorded, that an earlier cancel of many covers are cancelled now.
CREATE FUNCTION runtime.cancel_recorded(p_tasks uuid[])
RETURNS TABLE (task_id uuid, tenant_id uuid, tier text, priority integer, batch_id uuid, status text, fence integer, decided boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM runtime.cancellations) THEN RETURN; END IF;
  RETURN QUERY
  SELECT o.task_id, o.tenant_id, o.tier, o.priority, o.batch_id, x.status, x.fence, x.decided
  FROM (SELECT t.* FROM history.tasks t LEFT JOIN runtime.runs r ON r.task_id = t.task_id
        WHERE t.task_id = ANY (p_tasks) AND t.status = 'queued'
          AND (r.task_id IS NULL OR r.status IN ('running', 'parked') AND r.cancel_requested_at IS NULL)
          AND EXISTS (SELECT FROM runtime.cancellations c
                      WHERE c.tenant_id = t.tenant_id AND c.as_of >= t.submitted_at
                        AND runtime.covers(c, t, coalesce(r.status, 'queued')))
        ORDER BY t.task_id) o
  CROSS JOIN LATERAL runtime.cancel(o.task_id, o.tenant_id, o.tier) x;
END $$;

-- One to go on with, locked for whoever asks: their own, or one that nobody has worked on for a while.
CREATE FUNCTION runtime.next_cancellation(p_ours uuid) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT cancellation_id FROM runtime.cancellations
  WHERE swept_at IS NULL AND (cancellation_id = p_ours OR worked_at < clock_timestamp() - interval '5 seconds')
  ORDER BY cancellation_id = p_ours DESC NULLS LAST, worked_at LIMIT 1 FOR UPDATE SKIP LOCKED
$$;

-- Ends tasks of a batch that their lane refused, as `runtime.refuse` does, in the order of their ids.
CREATE FUNCTION runtime.refuse_each(p_tasks uuid[], p_tenant uuid, p_tiers text[], p_outcomes bytea[], p_finished_at timestamptz)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT runtime.refuse(o.task_id, p_tenant, o.tier, o.outcome, p_finished_at)
  FROM (SELECT * FROM unnest(p_tasks, p_tiers, p_outcomes) AS u (task_id, tier, outcome) ORDER BY u.task_id) o
$$;

-- What each worker last said of itself. Nothing to keep: whoever is silent for a few seconds is not there.
CREATE UNLOGGED TABLE runtime.workers (
  worker text PRIMARY KEY,
  slots integer NOT NULL,
  -- By tier: how many of its tasks could begin now. A tier that is absent is not served.
  lanes jsonb NOT NULL,
  seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION runtime.report_worker(p_worker text, p_slots integer, p_lanes jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO runtime.workers VALUES (p_worker, p_slots, p_lanes, clock_timestamp())
  ON CONFLICT (worker) DO UPDATE SET slots = excluded.slots, lanes = excluded.lanes, seen_at = excluded.seen_at;
  DELETE FROM runtime.workers WHERE seen_at < clock_timestamp() - interval '1 hour';
$$;

CREATE FUNCTION runtime.retire_worker(p_worker text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM runtime.workers WHERE worker = p_worker
$$;

-- By lane, over the workers that were heard of lately. The lanes' free slots do not add up: each counts what all may borrow.
CREATE FUNCTION runtime.lane_slots(p_within interval)
RETURNS TABLE (tier text, workers bigint, slots bigint, slots_free bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT l.key, count(*), sum(w.slots), sum(l.value::integer)
  FROM runtime.workers w CROSS JOIN LATERAL jsonb_each_text(w.lanes) l
  WHERE w.seen_at > clock_timestamp() - p_within
  GROUP BY l.key
$$;

-- By lane: runs that go on, runs that are parked, how many of those were woken and wait for a worker, since when there is
-- work to do on one of these or of the running ones, and how many began within the last minute, since when. How long a run
-- was parked is no part of its age: it is as it was asked for, and no worker could have changed it.
CREATE FUNCTION runtime.lane_runs()
RETURNS TABLE (tier text, running bigint, parked bigint, parked_ready bigint, oldest timestamptz, starts bigint,
               starting_since timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT tier, sum(running)::bigint, sum(parked)::bigint, sum(parked_ready)::bigint, min(oldest), sum(starts)::bigint, min(since)
  FROM (
    SELECT r.tier, count(*) FILTER (WHERE r.status = 'running') AS running,
           count(*) FILTER (WHERE r.status = 'parked') AS parked,
           count(p.ready_at) FILTER (WHERE r.status = 'parked') AS parked_ready,
           min(CASE r.status WHEN 'running' THEN r.started_at + make_interval(secs => r.parked_seconds) ELSE p.ready_at END) AS oldest,
           0 AS starts, NULL::timestamptz AS since
    FROM runtime.runs r LEFT JOIN runtime.parked p USING (task_id) WHERE r.status IN ('running', 'parked') GROUP BY r.tier
    UNION ALL
    SELECT r.tier, 0, 0, 0, NULL, count(*), min(r.started_at) FROM runtime.runs r
    WHERE r.started_at > now() - interval '1 minute' GROUP BY r.tier) n  -- now(): what may change is not looked up by index
  GROUP BY tier
$$;

-- By lane and level: how many recorded tasks nobody has begun, and when they were submitted, as the hundredths of them.
CREATE FUNCTION runtime.lane_queues()
RETURNS TABLE (tier text, level integer, queued bigint, submitted timestamptz[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.tier, t.level, count(*),
         percentile_disc(ARRAY(SELECT (n / 100.0)::double precision FROM generate_series(0, 100) n)) WITHIN GROUP (ORDER BY t.submitted_at)
  FROM history.tasks t
  WHERE t.status = 'queued' AND t.level IS NOT NULL AND NOT EXISTS (SELECT FROM runtime.runs r WHERE r.task_id = t.task_id)
  GROUP BY t.tier, t.level
$$;

-- The one gateway that shows the lanes' numbers in its metrics, until it has not said so for a while.
CREATE TABLE runtime.lane_watch (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  process uuid NOT NULL,
  until timestamptz NOT NULL
);
CREATE FUNCTION runtime.watch_lanes(p_process uuid, p_for interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO runtime.lane_watch AS w (process, until) VALUES (p_process, clock_timestamp() + p_for)
  ON CONFLICT (one) DO UPDATE SET process = excluded.process, until = excluded.until
    WHERE w.process = p_process OR w.until < clock_timestamp();
  RETURN FOUND;
END $$;

REVOKE ALL ON FUNCTION runtime.covers, runtime.is_cancelled, runtime.begin_cancellation, runtime.sweep, runtime.cancel_recorded, runtime.next_cancellation,
  runtime.refuse_each, runtime.report_worker, runtime.retire_worker, runtime.lane_slots, runtime.lane_runs,
  runtime.lane_queues, runtime.watch_lanes FROM PUBLIC;
GRANT SELECT ON runtime.cancellations TO laneway_gateway;
GRANT EXECUTE ON FUNCTION runtime.begin_cancellation, runtime.sweep, runtime.refuse_each, runtime.lane_slots,
  runtime.lane_runs, runtime.lane_queues, runtime.watch_lanes TO laneway_gateway;
GRANT EXECUTE ON FUNCTION runtime.sweep, runtime.cancel_recorded, runtime.next_cancellation TO laneway_persister;
GRANT EXECUTE ON FUNCTION runtime.report_worker, runtime.retire_worker TO laneway_worker;

RESET ROLE;
