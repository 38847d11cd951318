SET ROLE laneway_owner;

ALTER TABLE history.tasks ADD COLUMN erased_at timestamptz;
CREATE INDEX tasks_of_conversation ON history.tasks (tenant_id, conversation_id, submitted_at)
  WHERE conversation_id IS NOT NULL AND erased_at IS NULL;
CREATE INDEX tasks_open_in_conversation ON history.tasks (tenant_id, conversation_id)
  WHERE conversation_id IS NOT NULL AND status = 'queued';

-- A conversation as its tenant sees it. It begins with the first recorded task that names it.
CREATE TABLE history.conversations (
  tenant_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  user_id text,
  title text NOT NULL,
  -- Whether the tenant has given it: then no message changes it.
  titled boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL,
  active_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, conversation_id)
);
CREATE INDEX conversations_by_activity ON history.conversations (tenant_id, active_at DESC, conversation_id DESC);
CALL identity.protect('history.conversations', 'laneway_persister');
GRANT SELECT ON history.conversations TO laneway_gateway;
GRANT SELECT, INSERT, UPDATE ON history.conversations TO laneway_persister;

-- One row for each run that was ever given its conversation. Until it ends the conversation is its own, wherever it waits
-- meanwhile, and though its worker be dead: who goes on with it comes before all that was said after. What it said when
-- it completed is its turn, and has a number.
CREATE TABLE runtime.turns (
  task_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  user_id text,
  submitted_at timestamptz NOT NULL,
  number integer,
  messages jsonb,
  -- Of the messages, as the worker counts what a model is to read.
  bytes bigint,
  finished_at timestamptz
);
CREATE UNIQUE INDEX turns_in_order ON runtime.turns (tenant_id, conversation_id, number);
CALL identity.protect('runtime.turns');
GRANT SELECT ON runtime.turns TO laneway_gateway;

-- Deletions of conversations, and for ever the log of them. Covered is every task of the conversation that was submitted
-- until `as_of`, recorded or not. `due_at` is when somebody is to look at what is left; NULL: nothing is known to be.
CREATE TABLE runtime.erasures (
  erasure_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  as_of timestamptz NOT NULL,
  requested_by text NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  due_at timestamptz DEFAULT clock_timestamp(),
  done_at timestamptz,
  tasks bigint NOT NULL DEFAULT 0
);
CREATE INDEX erasures_of_conversation ON runtime.erasures (tenant_id, conversation_id, as_of);
CREATE INDEX erasures_due ON runtime.erasures (due_at) WHERE due_at IS NOT NULL;
CALL identity.protect('runtime.erasures', 'laneway_persister');
GRANT SELECT ON runtime.erasures TO laneway_gateway, laneway_persister;

-- What was submitted until then is deleted, if not yet everywhere.
CREATE FUNCTION runtime.erased_until(p_tenant uuid, p_conversation uuid) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(max(e.as_of), '-infinity') FROM runtime.erasures e
  WHERE e.tenant_id = p_tenant AND e.conversation_id = p_conversation
$$;

-- Runs that have the conversation now. Not by their leases, as other lines are counted: a run that is taken over must
-- find the conversation as it left it.
CREATE FUNCTION runtime.having_conversation(p_tenant uuid, p_conversation uuid) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FROM runtime.turns t JOIN runtime.runs r ON r.task_id = t.task_id
  WHERE t.tenant_id = p_tenant AND t.conversation_id = p_conversation AND t.number IS NULL
    AND r.status IN ('running', 'parked')
$$;

-- Gives a run its conversation, or says why it cannot have it: 'conversation_busy', or 'conversation_not_found' where it is
-- another user's. Called under the lock of its tenant.
CREATE FUNCTION runtime.enter_conversation(p_task uuid, p_tenant uuid, p_own runtime.parked, p_asked json) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE conversation uuid := (p_asked ->> 'conversation_id')::uuid; newest runtime.turns;
BEGIN
  IF EXISTS (SELECT FROM runtime.turns t WHERE t.task_id = p_task) THEN RETURN NULL; END IF;
  SELECT * INTO newest FROM runtime.turns t
  WHERE t.tenant_id = p_tenant AND t.conversation_id = conversation ORDER BY t.number DESC NULLS FIRST LIMIT 1;
  IF FOUND AND newest.user_id IS DISTINCT FROM p_asked ->> 'user_id'
     AND newest.submitted_at > runtime.erased_until(p_tenant, conversation) THEN
    RETURN 'conversation_not_found';
  END IF;
  IF runtime.is_full(p_own, p_tenant, 'conversation_busy', conversation::text, 1) THEN RETURN 'conversation_busy'; END IF;
  INSERT INTO runtime.turns (task_id, tenant_id, conversation_id, user_id, submitted_at)
  VALUES (p_task, p_tenant, conversation, p_asked ->> 'user_id', (p_asked ->> 'submitted_at')::timestamptz);
  RETURN NULL;
END $$;

-- Why a run ends for an obstacle instead of waiting for it to go; NULL: it waits.
CREATE FUNCTION runtime.refusal_for(p_obstacle runtime.obstacle, p_message bytea) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT (p_obstacle).reason WHERE (p_obstacle).reason = 'conversation_not_found'
    OR (p_obstacle).reason = 'conversation_busy' AND convert_from(p_message, 'UTF8')::json ->> 'on_busy' = 'reject'
$$;

-- For a run that was parked and is to interrupt: cancels what has the conversation, and what waits to interrupt it too, as
-- far as it was submitted earlier; which of them run. The place that was kept for another in the line is given up.
CREATE FUNCTION runtime.interrupt_for(p_tenant uuid, p_obstacle runtime.obstacle, p_message bytea) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE asked json := convert_from(p_message, 'UTF8')::json; until timestamptz := (asked ->> 'submitted_at')::timestamptz;
  running uuid[];
BEGIN
  IF p_obstacle.reason <> 'conversation_busy' OR asked ->> 'on_busy' IS DISTINCT FROM 'interrupt' THEN RETURN NULL; END IF;
  SELECT array_agg(o.task_id) FILTER (WHERE x.status = 'cancelling') INTO running FROM (
    SELECT r.task_id, r.tier FROM runtime.turns t JOIN runtime.runs r ON r.task_id = t.task_id
    WHERE t.tenant_id = p_tenant AND t.conversation_id = p_obstacle.key::uuid AND t.number IS NULL
      AND t.submitted_at < until AND r.status IN ('running', 'parked')
    UNION
    SELECT p.task_id, p.tier FROM runtime.parked p
    WHERE p.tenant_id = p_tenant AND p.reason = 'conversation_busy' AND p.key = p_obstacle.key
      AND p.priority = 10 AND p.submitted_at < until
    ORDER BY task_id) o
  CROSS JOIN LATERAL runtime.cancel(o.task_id, p_tenant, o.tier) x;
  UPDATE runtime.parked p SET ready_at = NULL, published_at = NULL
  WHERE p.tenant_id = p_tenant AND p.reason = 'conversation_busy' AND p.key = p_obstacle.key AND p.ready_at IS NOT NULL;
  RETURN running;
END $$;

-- Nobody else adds to the conversation at this moment: the run that does has it.
CREATE FUNCTION runtime.add_turn(p_task uuid, p_messages jsonb, p_bytes bigint, p_finished_at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  UPDATE runtime.turns t SET messages = p_messages, bytes = p_bytes, finished_at = p_finished_at,
    number = 1 + coalesce((SELECT max(o.number) FROM runtime.turns o
                           WHERE o.tenant_id = t.tenant_id AND o.conversation_id = t.conversation_id), 0)
  WHERE t.task_id = p_task
$$;

-- The newest turns of a run's conversation that fit into so many bytes, newest first; then the first that does not, without
-- its messages. What is older is not read.
CREATE FUNCTION runtime.history(p_task uuid, p_bytes bigint) RETURNS TABLE (number integer, messages jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE own runtime.turns; turn runtime.turns; room bigint := p_bytes; erased timestamptz;
BEGIN
  SELECT * INTO own FROM runtime.turns t WHERE t.task_id = p_task;
  erased := runtime.erased_until(own.tenant_id, own.conversation_id);
  FOR turn IN
    SELECT * FROM runtime.turns t
    WHERE t.tenant_id = own.tenant_id AND t.conversation_id = own.conversation_id AND t.number IS NOT NULL
      AND t.submitted_at > erased
    ORDER BY t.number DESC
  LOOP
    room := room - turn.bytes;
    number := turn.number; messages := CASE WHEN room >= 0 THEN turn.messages END;
    RETURN NEXT;
    EXIT WHEN room < 0;
  END LOOP;
END $$;

CREATE FUNCTION runtime.entitle(p_tenant uuid, p_conversation uuid, p_title text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE history.conversations c SET title = p_title, titled = true
  WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation;
  RETURN FOUND;
END $$;

-- Begins a deletion: from now on the conversation is not there, nor are its documents. Where it is not there already, the
-- last deletion of it.
CREATE FUNCTION runtime.begin_erasure(p_id uuid, p_tenant uuid, p_conversation uuid, p_as_of timestamptz, p_by text)
RETURNS SETOF runtime.erasures
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE had_documents boolean;
BEGIN
  DELETE FROM runtime.documents d WHERE d.tenant_id = p_tenant AND d.conversation_id = p_conversation;
  had_documents := FOUND;
  DELETE FROM runtime.summaries s WHERE s.tenant_id = p_tenant AND s.conversation_id = p_conversation;
  DELETE FROM history.conversations c WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation;
  IF FOUND OR had_documents THEN
    INSERT INTO runtime.erasures (erasure_id, tenant_id, conversation_id, as_of, requested_by)
    VALUES (p_id, p_tenant, p_conversation, p_as_of, p_by);
  END IF;
  RETURN QUERY SELECT * FROM runtime.erasures e
  WHERE e.tenant_id = p_tenant AND e.conversation_id = p_conversation ORDER BY e.as_of DESC LIMIT 1;
END $$;

-- Deletes the next of what a deletion covers, of at most so many tasks that have ended; which ones, so that what Redis has
-- of them goes too. Their rows stay, without what was said: ledger entries, receipts and messages that come again name
-- them. What has not ended yet was cancelled, and is looked at again.
CREATE FUNCTION runtime.erase_next(p_limit integer, OUT worked boolean, OUT tenant_id uuid, OUT tasks uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE e runtime.erasures; left_open boolean;
BEGIN
  SELECT * INTO e FROM runtime.erasures d WHERE d.due_at <= clock_timestamp() ORDER BY d.due_at LIMIT 1
  FOR UPDATE SKIP LOCKED;
  worked := FOUND;
  IF NOT worked THEN RETURN; END IF;
  tenant_id := e.tenant_id;
  SELECT coalesce(array_agg(n.task_id), '{}') INTO tasks FROM (
    SELECT t.task_id FROM history.tasks t LEFT JOIN runtime.runs r ON r.task_id = t.task_id
    WHERE t.tenant_id = e.tenant_id AND t.conversation_id = e.conversation_id AND t.submitted_at <= e.as_of
      AND t.erased_at IS NULL AND coalesce(r.status, '') NOT IN ('running', 'parked')
      -- Of what never began nobody may ever tell the record: its lane may have refused it.
      AND (t.status <> 'queued' OR r.attempts = 0)
    ORDER BY t.task_id LIMIT p_limit FOR UPDATE OF t) n;
  UPDATE history.tasks t SET erased_at = clock_timestamp(), input = NULL, output = NULL, error_message = NULL,
    metadata = NULL, user_id = NULL, routing = NULL
  WHERE t.task_id = ANY (tasks);
  DELETE FROM history.messages m WHERE m.task_id = ANY (tasks);
  DELETE FROM history.events v WHERE v.task_id = ANY (tasks);
  DELETE FROM history.dead_letters l WHERE l.task_id = ANY (tasks);
  DELETE FROM runtime.steps s WHERE s.task_id = ANY (tasks);
  DELETE FROM runtime.proposals p WHERE p.task_id = ANY (tasks);
  DELETE FROM runtime.turns t WHERE t.task_id = ANY (tasks);
  UPDATE runtime.runs r SET outcome = NULL, progress = NULL WHERE r.task_id = ANY (tasks) AND r.attempts > 0;
  DELETE FROM runtime.summaries s
  WHERE s.tenant_id = e.tenant_id AND s.conversation_id = e.conversation_id AND s.as_of <= e.as_of;
  DELETE FROM history.conversations c
  WHERE c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id AND c.active_at <= e.as_of;
  left_open := EXISTS (SELECT FROM history.tasks t WHERE t.tenant_id = e.tenant_id
    AND t.conversation_id = e.conversation_id AND t.submitted_at <= e.as_of AND t.erased_at IS NULL);
  UPDATE runtime.erasures d SET tasks = d.tasks + cardinality(erase_next.tasks),
    due_at = CASE WHEN cardinality(erase_next.tasks) = p_limit THEN clock_timestamp()
                  WHEN left_open THEN clock_timestamp() + interval '1 second' END,
    done_at = CASE WHEN cardinality(erase_next.tasks) < p_limit AND NOT left_open THEN clock_timestamp() END
  WHERE d.erasure_id = e.erasure_id;
END $$;

-- What has just been recorded of deleted conversations is looked at once more.
CREATE FUNCTION runtime.erase_recorded(p_tasks uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM runtime.erasures) THEN RETURN; END IF;
  UPDATE history.tasks t SET erased_at = NULL WHERE t.task_id = ANY (p_tasks) AND t.erased_at IS NOT NULL;
  UPDATE runtime.erasures e SET due_at = clock_timestamp() FROM history.tasks t
  WHERE t.task_id = ANY (p_tasks) AND t.conversation_id = e.conversation_id AND t.tenant_id = e.tenant_id
    AND t.submitted_at <= e.as_of AND e.due_at IS NULL;
END $$;

REVOKE ALL ON FUNCTION runtime.erased_until, runtime.having_conversation, runtime.enter_conversation, runtime.refusal_for,
  runtime.interrupt_for, runtime.add_turn, runtime.history, runtime.entitle, runtime.begin_erasure, runtime.erase_next,
  runtime.erase_recorded FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.history TO laneway_worker;
GRANT EXECUTE ON FUNCTION runtime.entitle, runtime.begin_erasure TO laneway_gateway;
GRANT EXECUTE ON FUNCTION runtime.erase_next, runtime.erase_recorded TO laneway_persister;

RESET ROLE;
