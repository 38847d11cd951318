SET ROLE laneway_owner;

-- What operators have stopped: everything, a tier, a tenant or an agent. What is asked to begin meanwhile is parked by
-- `runtime.acquire`; where it is a kill, what runs is stopped and parked too.
CREATE TABLE runtime.pauses (
  scope text NOT NULL CHECK (scope IN ('everything', 'tier', 'tenant', 'agent')),
  name text NOT NULL CHECK ((scope = 'everything') = (name = '')),
  kill boolean NOT NULL,
  set_by text NOT NULL,
  reason text NOT NULL,
  set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (scope, name)
);

-- Who did it, when and why. Nobody may change what is written here.
CREATE TABLE runtime.pause_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  action text NOT NULL CHECK (action IN ('pause', 'kill', 'resume')),
  scope text NOT NULL,
  name text NOT NULL,
  set_by text NOT NULL,
  reason text NOT NULL
);
CREATE FUNCTION runtime.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the log of pauses is append-only';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runtime.pause_log
  FOR EACH STATEMENT EXECUTE FUNCTION runtime.refuse_change();

-- Pauses, or makes a kill of a pause and a pause of a kill. Doing it again changes who and why, and is logged too.
CREATE FUNCTION runtime.pause(p_scope text, p_name text, p_kill boolean, p_by text, p_reason text)
RETURNS runtime.pauses
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE made runtime.pauses;
BEGIN
  INSERT INTO runtime.pauses AS p (scope, name, kill, set_by, reason) VALUES (p_scope, p_name, p_kill, p_by, p_reason)
  ON CONFLICT (scope, name) DO UPDATE
    SET kill = p_kill, set_by = p_by, reason = p_reason, set_at = clock_timestamp()
  RETURNING * INTO made;
  INSERT INTO runtime.pause_log (action, scope, name, set_by, reason)
  VALUES (CASE WHEN p_kill THEN 'kill' ELSE 'pause' END, p_scope, p_name, p_by, p_reason);
  RETURN made;
END $$;

-- False where it was not paused: then nothing is logged.
CREATE FUNCTION runtime.resume(p_scope text, p_name text, p_by text, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  DELETE FROM runtime.pauses p WHERE p.scope = p_scope AND p.name = p_name;
  IF NOT FOUND THEN RETURN false; END IF;
  INSERT INTO runtime.pause_log (action, scope, name, set_by, reason) VALUES ('resume', p_scope, p_name, p_by, p_reason);
  NOTIFY laneway_parking;
  RETURN true;
END $$;

-- The pause that holds for a task, as the key of what is parked for it; NULL where none does. Where the agent is not known
-- (NULL), any agent's does: whoever asks is to say which.
CREATE FUNCTION runtime.pause_of(p_tier text, p_tenant uuid, p_agent text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT p.scope || ':' || p.name FROM runtime.pauses p
          WHERE p.scope = 'everything' OR p.scope = 'tier' AND p.name = p_tier
             OR p.scope = 'tenant' AND p.name = p_tenant::text
             OR p.scope = 'agent' AND (p_agent IS NULL OR p.name = p_agent) LIMIT 1);
END $$;

REVOKE ALL ON FUNCTION runtime.pause, runtime.resume, runtime.pause_of FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.pause, runtime.resume TO laneway_gateway;
GRANT SELECT ON runtime.pauses TO laneway_gateway, laneway_worker, laneway_persister;
GRANT SELECT ON runtime.pause_log TO laneway_gateway;

RESET ROLE;
