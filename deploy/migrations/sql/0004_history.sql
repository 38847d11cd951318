-- The durable record. Messages may arrive in any order and more than once: each fills its own columns.
CREATE TABLE history.tasks (
  task_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id text,
  tier text NOT NULL,
  priority integer,
  agent text,
  requested_model text,
  input jsonb,
  max_cost_usd numeric(20, 10),
  metadata jsonb,
  conversation_id uuid,
  idempotency_key text,
  request_hash text,
  submitted_at timestamptz,
  status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'completed', 'failed', 'cancelled', 'expired')),
  output text,
  error_type text,
  error_message text,
  usage jsonb,
  provider text,
  model text,
  steps integer,
  attempts integer,
  started_at timestamptz,
  finished_at timestamptz,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
CREATE INDEX tasks_of_tenant ON history.tasks (tenant_id, submitted_at DESC, task_id DESC);
-- For lists of one status: of what has ended, and of what has not, which is little.
CREATE INDEX tasks_ended ON history.tasks (tenant_id, status, submitted_at DESC, task_id DESC) WHERE status <> 'queued';
CREATE INDEX tasks_open ON history.tasks (tenant_id, submitted_at DESC, task_id DESC) WHERE status = 'queued';
CALL identity.protect('history.tasks', 'laneway_persister');

CREATE TABLE history.messages (
  task_id uuid NOT NULL,
  seq integer NOT NULL,
  tenant_id uuid NOT NULL,
  step integer NOT NULL,
  role text NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
  content jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (task_id, seq)
);
CALL identity.protect('history.messages', 'laneway_persister');

-- Partitioned by month: retention drops partitions. `at` is the event's own time, the same in every repetition.
CREATE TABLE history.events (
  task_id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  fence integer NOT NULL,
  seq integer NOT NULL,
  type text NOT NULL,
  at timestamptz NOT NULL,
  data jsonb NOT NULL,
  PRIMARY KEY (task_id, fence, seq, at)
) PARTITION BY RANGE (at);
CREATE TABLE history.events_default PARTITION OF history.events DEFAULT;
CALL identity.protect('history.events', 'laneway_persister');
CALL identity.protect('history.events_default', 'laneway_persister');

CREATE TABLE history.dead_letters (
  dead_letter_id text PRIMARY KEY,
  queue text NOT NULL,
  exchange text NOT NULL,
  routing_key text NOT NULL,
  kind text,
  task_id uuid,
  reason text NOT NULL,
  headers jsonb NOT NULL,
  body bytea NOT NULL,
  died_at timestamptz,
  filed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  replayed_at timestamptz,
  -- When the task inside is to be looked at, and ended unless a worker still runs it; NULL: it needs, or needed, no end.
  bury_at timestamptz
);
CREATE INDEX dead_letters_to_bury ON history.dead_letters (bury_at) WHERE bury_at IS NOT NULL;

-- Makes the month's partition and the next; called by the persister as time goes on.
CREATE FUNCTION history.ensure_partitions() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE first date; name text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('history.ensure_partitions'));
  FOR i IN 0..1 LOOP
    first := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i))::date;
    name := format('events_%s', to_char(first, 'YYYY_MM'));
    CONTINUE WHEN to_regclass('history.' || name) IS NOT NULL;
    CONTINUE WHEN EXISTS (SELECT FROM history.events_default WHERE at >= first::timestamp AT TIME ZONE 'UTC'
                          AND at < (first + interval '1 month') AT TIME ZONE 'UTC');
    EXECUTE format('CREATE TABLE history.%I PARTITION OF history.events FOR VALUES FROM (%L) TO (%L)', name,
                   first::text || ' 00:00:00+00', (first + interval '1 month')::date::text || ' 00:00:00+00');
    EXECUTE format('CALL identity.protect(%L, %L)', 'history.' || name, 'laneway_persister');
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION history.ensure_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION history.ensure_partitions TO laneway_persister;
SELECT history.ensure_partitions();

GRANT SELECT, INSERT, UPDATE ON history.tasks, history.messages, history.events, history.dead_letters TO laneway_persister;
GRANT SELECT ON history.tasks, history.messages, history.events TO laneway_gateway;

RESET ROLE;
