SET ROLE laneway_owner;

-- Servers of tools that tenants name for their own runs. What is sent to authenticate there goes in, and comes out for
-- workers alone: the gateway has no right to read it.
CREATE TABLE runtime.mcp_servers (
  tenant_id uuid NOT NULL,
  name text NOT NULL,
  url text NOT NULL,
  -- The agents that have its tools.
  agents text[] NOT NULL,
  -- The only ones of its tools, by its own names; NULL: all.
  tools text[],
  timeout_seconds double precision NOT NULL,
  ask boolean NOT NULL,
  trust_annotations boolean NOT NULL,
  auth_header text,
  auth_value text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, name),
  CHECK ((auth_header IS NULL) = (auth_value IS NULL))
);
CALL identity.protect('runtime.mcp_servers');
GRANT SELECT (tenant_id, name, url, agents, tools, timeout_seconds, ask, trust_annotations, auth_header, created_at, updated_at)
  ON runtime.mcp_servers TO laneway_gateway;
GRANT DELETE ON runtime.mcp_servers TO laneway_gateway;

-- Registers a server, or puts it in the place of the one with this name. verdict: 'added' | 'changed' | 'full' (the tenant
-- has so many already). A tenant's servers are counted by one at a time.
CREATE FUNCTION runtime.put_mcp_server(p_tenant uuid, p_name text, p_url text, p_agents text[], p_tools text[],
  p_timeout_seconds double precision, p_ask boolean, p_trust_annotations boolean, p_auth_header text, p_auth_value text,
  p_most integer)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7316019, hashtext(p_tenant::text));
  UPDATE runtime.mcp_servers s SET url = p_url, agents = p_agents, tools = p_tools, timeout_seconds = p_timeout_seconds,
    ask = p_ask, trust_annotations = p_trust_annotations, auth_header = p_auth_header, auth_value = p_auth_value,
    updated_at = clock_timestamp()
  WHERE s.tenant_id = p_tenant AND s.name = p_name;
  IF FOUND THEN RETURN 'changed'; END IF;
  IF (SELECT count(*) FROM runtime.mcp_servers s WHERE s.tenant_id = p_tenant) >= p_most THEN RETURN 'full'; END IF;
  INSERT INTO runtime.mcp_servers (tenant_id, name, url, agents, tools, timeout_seconds, ask, trust_annotations,
    auth_header, auth_value)
  VALUES (p_tenant, p_name, p_url, p_agents, p_tools, p_timeout_seconds, p_ask, p_trust_annotations, p_auth_header,
    p_auth_value);
  RETURN 'added';
END $$;

-- All of a tenant's, with what is sent to authenticate.
CREATE FUNCTION runtime.mcp_servers_of(p_tenant uuid)
RETURNS TABLE (name text, url text, agents text[], tools text[], timeout_seconds double precision, ask boolean,
               trust_annotations boolean, auth_header text, auth_value text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.name, s.url, s.agents, s.tools, s.timeout_seconds, s.ask, s.trust_annotations, s.auth_header, s.auth_value
  FROM runtime.mcp_servers s WHERE s.tenant_id = p_tenant ORDER BY s.name
$$;

REVOKE ALL ON FUNCTION runtime.put_mcp_server, runtime.mcp_servers_of FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.put_mcp_server TO laneway_gateway;
GRANT EXECUTE ON FUNCTION runtime.mcp_servers_of TO laneway_worker;

RESET ROLE;
