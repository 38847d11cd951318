SET ROLE laneway_owner;

-- Of the attempts those that were made by a process which ran nothing else: its name ends in '/alone'.
ALTER TABLE runtime.runs ADD COLUMN alone integer NOT NULL DEFAULT 0;
-- How often it was left for later, as no model could be had. That is no attempt.
ALTER TABLE runtime.runs ADD COLUMN deferrals integer NOT NULL DEFAULT 0;

-- A step of which the model's part is done: its answer, as a step is checkpointed, with tool calls of which none had run
-- when it was written. That is before people are asked, and before calls with side effects are made (see
-- `runtime.intents`). It becomes a row of `runtime.steps` once all have run; this one stays, for its calls are the record
-- of who decided what.
CREATE TABLE runtime.proposals (
  task_id uuid NOT NULL,
  step integer NOT NULL,
  tenant_id uuid NOT NULL,
  fence integer NOT NULL,
  last_seq integer NOT NULL,
  state jsonb NOT NULL,
  -- Nobody can decide after that: then the agent's policy does. NULL where people are not asked.
  expires_at timestamptz,
  on_timeout text CHECK (on_timeout IN ('deny', 'approve', 'expire')),
  proposed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (task_id, step),
  CHECK ((expires_at IS NULL) = (on_timeout IS NULL))
);
CALL identity.protect('runtime.proposals', 'laneway_worker');

-- The calls of a proposal that wait for a decision, and what was decided, by whom and when.
CREATE TABLE runtime.approvals (
  task_id uuid NOT NULL,
  step integer NOT NULL,
  -- The call's place in its step.
  index integer NOT NULL,
  tenant_id uuid NOT NULL,
  call_id text NOT NULL,
  tool text NOT NULL,
  arguments jsonb NOT NULL,
  -- What changed arguments are held against.
  schema jsonb NOT NULL,
  decision text CHECK (decision IN ('approve', 'edit', 'deny', 'expire')),
  changed_arguments jsonb,
  reason text,
  user_id text,
  -- 'key:…', the public part of an API key, or 'policy'.
  decided_by text,
  decided_at timestamptz,
  PRIMARY KEY (task_id, step, index),
  FOREIGN KEY (task_id, step) REFERENCES runtime.proposals ON DELETE CASCADE,
  CHECK ((decision IS NULL) = (decided_at IS NULL) AND (decision IS NULL) = (decided_by IS NULL))
);
CALL identity.protect('runtime.approvals', 'laneway_worker');

-- Calls that do harm if they are made twice, and are begun: a row is there before its call is made. Who finds one of an
-- earlier fence, and no result, does not know what became of the call, and does not make it again.
CREATE TABLE runtime.intents (
  task_id uuid NOT NULL,
  step integer NOT NULL,
  -- The call's place in its step.
  index integer NOT NULL,
  tenant_id uuid NOT NULL,
  begun_fence integer NOT NULL,
  begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  result jsonb,
  PRIMARY KEY (task_id, step, index),
  FOREIGN KEY (task_id, step) REFERENCES runtime.proposals ON DELETE CASCADE
);
CALL identity.protect('runtime.intents', 'laneway_worker');
GRANT SELECT ON runtime.approvals, runtime.proposals TO laneway_gateway;

-- Writes down what a run proposes, in the transaction that parks it or begins its calls.
CREATE FUNCTION runtime.propose(p_run runtime.runs, p_proposal jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO runtime.proposals (task_id, step, tenant_id, fence, last_seq, state, expires_at, on_timeout)
  VALUES (p_run.task_id, (p_proposal ->> 'step')::integer, p_run.tenant_id, (p_proposal ->> 'fence')::integer,
          (p_proposal ->> 'last_seq')::integer, p_proposal -> 'state', (p_proposal ->> 'expires_at')::timestamptz,
          p_proposal ->> 'on_timeout')
  ON CONFLICT (task_id, step) DO NOTHING;
  IF NOT FOUND THEN RETURN; END IF;
  INSERT INTO runtime.approvals (task_id, step, index, tenant_id, call_id, tool, arguments, schema)
  SELECT p_run.task_id, (p_proposal ->> 'step')::integer, c.index, p_run.tenant_id, c.call_id, c.tool, c.arguments, c.schema
  FROM jsonb_to_recordset(p_proposal -> 'calls')
    AS c (index integer, call_id text, tool text, arguments jsonb, schema jsonb);
END $$;

-- The step that an acquired run goes on with, where its model's part is done; NULL where it is not. What nobody has
-- decided in time the policy decides now: whoever has the run is the only one who can.
CREATE FUNCTION runtime.take_proposal(p_task uuid) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE proposed runtime.proposals;
BEGIN
  SELECT * INTO proposed FROM runtime.proposals p WHERE p.task_id = p_task AND p.step > coalesce(
    (SELECT max(s.step) FROM runtime.steps s WHERE s.task_id = p_task), 0) ORDER BY p.step DESC LIMIT 1;
  IF NOT FOUND THEN RETURN NULL; END IF;
  IF proposed.expires_at <= clock_timestamp() THEN
    UPDATE runtime.approvals a SET decision = proposed.on_timeout, decided_by = 'policy', decided_at = clock_timestamp()
    WHERE a.task_id = p_task AND a.step = proposed.step AND a.decision IS NULL;
  END IF;
  RETURN jsonb_build_object(
    'step', proposed.step, 'fence', proposed.fence, 'last_seq', proposed.last_seq, 'state', proposed.state,
    'expires_at', proposed.expires_at, 'on_timeout', proposed.on_timeout,
    'calls', (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'index', a.index, 'call_id', a.call_id, 'tool', a.tool, 'arguments', a.arguments, 'schema', a.schema,
        'decision', a.decision, 'changed_arguments', a.changed_arguments, 'reason', a.reason,
        'decided_by', a.decided_by, 'decided_at', a.decided_at) ORDER BY a.index), '[]')
      FROM runtime.approvals a WHERE a.task_id = p_task AND a.step = proposed.step));
END $$;

-- Before calls with side effects are made: notes that they will be, under the fence, with the step where that is not
-- stored. What an earlier holder of the run has begun is answered with its result, or without one where it is not known;
-- those are not to be made. NULL: the fence is another's.
CREATE FUNCTION runtime.begin_tools(p_task uuid, p_fence integer, p_step integer, p_indexes integer[], p_proposal jsonb)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs; begun jsonb;
BEGIN
  SELECT * INTO run FROM runtime.runs r
  WHERE r.task_id = p_task AND r.fence = p_fence AND r.status = 'running' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  IF p_proposal IS NOT NULL THEN PERFORM runtime.propose(run, p_proposal); END IF;
  SELECT coalesce(jsonb_agg(jsonb_build_object('index', i.index, 'result', i.result)), '[]') INTO begun
  FROM runtime.intents i
  WHERE i.task_id = p_task AND i.step = p_step AND i.begun_fence < p_fence;
  INSERT INTO runtime.intents (task_id, step, index, tenant_id, begun_fence)
  SELECT p_task, p_step, n.index, run.tenant_id, p_fence FROM unnest(p_indexes) AS n (index)
  ON CONFLICT (task_id, step, index) DO NOTHING;
  RETURN begun;
END $$;

-- What a call has come to: found again it is not unknown. Only its own fence can say it.
CREATE FUNCTION runtime.note_result(p_task uuid, p_fence integer, p_step integer, p_index integer, p_result jsonb)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE runtime.intents i SET result = p_result
  WHERE i.task_id = p_task AND i.step = p_step AND i.index = p_index AND i.begun_fence = p_fence
$$;

-- Decides on a call. verdict: 'decided' | 'repeated' (the same was decided before) | 'differs' (something else was) |
-- 'late' (its time is up) | 'ended' (nothing waits any more) | 'running' (it may be about to wait) | 'unknown_call' |
-- 'unknown_task'. The run goes on once all calls of its step are decided.
CREATE FUNCTION runtime.decide(p_task uuid, p_tenant uuid, p_call text, p_decision text, p_arguments jsonb, p_reason text,
  p_user text, p_by text, OUT verdict text, OUT decision text, OUT decided_by text, OUT decided_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE run runtime.runs; call runtime.approvals; proposed runtime.proposals;
BEGIN
  SELECT * INTO run FROM runtime.runs r WHERE r.task_id = p_task AND r.tenant_id = p_tenant FOR NO KEY UPDATE;
  IF NOT FOUND THEN verdict := 'unknown_task'; RETURN; END IF;
  SELECT * INTO call FROM runtime.approvals a WHERE a.task_id = p_task AND a.call_id = p_call
  ORDER BY a.step DESC LIMIT 1 FOR UPDATE;
  IF call.decision IS NULL AND run.status = 'running' AND run.cancel_requested_at IS NULL THEN
    verdict := 'running'; RETURN;
  ELSIF call.call_id IS NULL THEN
    verdict := CASE run.status WHEN 'parked' THEN 'unknown_call' ELSE 'ended' END; RETURN;
  ELSIF call.decision IS NOT NULL THEN
    decision := call.decision; decided_by := call.decided_by; decided_at := call.decided_at;
    verdict := CASE WHEN (call.decision, call.changed_arguments, call.reason, call.user_id)
                         IS NOT DISTINCT FROM (p_decision, p_arguments, p_reason, p_user)
                    THEN 'repeated' ELSE 'differs' END;
    RETURN;
  END IF;
  SELECT * INTO proposed FROM runtime.proposals p WHERE p.task_id = p_task AND p.step = call.step;
  IF run.status <> 'parked' OR run.cancel_requested_at IS NOT NULL THEN verdict := 'ended'; RETURN; END IF;
  IF proposed.expires_at <= clock_timestamp() THEN verdict := 'late'; RETURN; END IF;
  UPDATE runtime.approvals a SET decision = p_decision, changed_arguments = p_arguments, reason = p_reason,
    user_id = p_user, decided_by = p_by, decided_at = clock_timestamp()
  WHERE a.task_id = p_task AND a.step = call.step AND a.index = call.index RETURNING * INTO call;
  verdict := 'decided'; decision := call.decision; decided_by := call.decided_by; decided_at := call.decided_at;
  IF NOT EXISTS (SELECT FROM runtime.approvals a
                 WHERE a.task_id = p_task AND a.step = call.step AND a.decision IS NULL) THEN
    UPDATE runtime.parked p SET ready_at = clock_timestamp(), published_at = NULL
    WHERE p.task_id = p_task AND p.reason = 'approval' AND p.ready_at IS NULL;
    NOTIFY laneway_parking;
  END IF;
END $$;

REVOKE ALL ON FUNCTION runtime.propose, runtime.take_proposal, runtime.begin_tools, runtime.note_result, runtime.decide
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.begin_tools, runtime.note_result TO laneway_worker;
GRANT EXECUTE ON FUNCTION runtime.decide TO laneway_gateway;

RESET ROLE;
