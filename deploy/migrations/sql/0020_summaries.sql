SET ROLE laneway_owner;

-- Of each conversation the newest summary of what its window left out: all turns up to a number. `as_of` is when the task was
-- submitted whose run made it: what was submitted before a deletion knows what is deleted, whenever it ends.
CREATE TABLE runtime.summaries (
  tenant_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  upto integer NOT NULL,
  text text NOT NULL,
  task_id uuid NOT NULL,
  as_of timestamptz NOT NULL,
  made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, conversation_id)
);
CALL identity.protect('runtime.summaries');

-- The one that a run is to know.
CREATE FUNCTION runtime.summary_for(p_task uuid) RETURNS TABLE (upto integer, text text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.upto, s.text FROM runtime.turns t
  JOIN runtime.summaries s ON s.tenant_id = t.tenant_id AND s.conversation_id = t.conversation_id
  WHERE t.task_id = p_task AND s.as_of > runtime.erased_until(t.tenant_id, t.conversation_id)
$$;

-- The newest turns of a range of a run's conversation that fit into so many bytes, newest first. What is older is not read.
CREATE FUNCTION runtime.turns_for(p_task uuid, p_after integer, p_upto integer, p_bytes bigint)
RETURNS TABLE (messages jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE own runtime.turns; turn runtime.turns; room bigint := p_bytes;
BEGIN
  SELECT * INTO own FROM runtime.turns t WHERE t.task_id = p_task;
  FOR turn IN
    SELECT * FROM runtime.turns t
    WHERE t.tenant_id = own.tenant_id AND t.conversation_id = own.conversation_id
      AND t.number > p_after AND t.number <= p_upto
      AND t.submitted_at > runtime.erased_until(own.tenant_id, own.conversation_id)
    ORDER BY t.number DESC
  LOOP
    room := room - turn.bytes;
    EXIT WHEN room < 0;
    messages := turn.messages;
    RETURN NEXT;
  END LOOP;
END $$;

-- Keeps what a run that has its fence summed up, in the place of the one before; nothing for a conversation that was deleted
-- since the task was submitted.
CREATE FUNCTION runtime.keep_summary(p_task uuid, p_fence integer, p_upto integer, p_text text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO runtime.summaries AS s (tenant_id, conversation_id, upto, text, task_id, as_of)
  SELECT t.tenant_id, t.conversation_id, p_upto, p_text, t.task_id, t.submitted_at
  FROM runtime.turns t JOIN runtime.runs r ON r.task_id = t.task_id
  WHERE t.task_id = p_task AND r.fence = p_fence AND r.status = 'running'
    AND t.submitted_at > runtime.erased_until(t.tenant_id, t.conversation_id)
  ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET upto = excluded.upto, text = excluded.text,
    task_id = excluded.task_id, as_of = excluded.as_of, made_at = clock_timestamp()
$$;

REVOKE ALL ON FUNCTION runtime.summary_for, runtime.turns_for, runtime.keep_summary FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.summary_for, runtime.turns_for, runtime.keep_summary TO laneway_worker;

RESET ROLE;
