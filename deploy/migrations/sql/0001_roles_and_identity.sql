-- Roles are the cluster's, not the database's: made if absent. `deploy.migrations` gives them their passwords.
DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['laneway_owner', 'laneway_gateway', 'laneway_worker', 'laneway_persister', 'laneway_billing'] LOOP
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN', name);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END LOOP;
END $$;

GRANT laneway_owner TO CURRENT_USER;

CREATE SCHEMA identity AUTHORIZATION laneway_owner;
CREATE SCHEMA runtime AUTHORIZATION laneway_owner;
CREATE SCHEMA history AUTHORIZATION laneway_owner;
CREATE SCHEMA billing AUTHORIZATION laneway_owner;

GRANT USAGE ON SCHEMA identity TO laneway_gateway, laneway_billing;
GRANT USAGE ON SCHEMA runtime TO laneway_gateway, laneway_worker, laneway_persister, laneway_billing;
GRANT USAGE ON SCHEMA history TO laneway_gateway, laneway_persister;
GRANT USAGE ON SCHEMA billing TO laneway_gateway, laneway_worker, laneway_billing;

SET ROLE laneway_owner;

-- Row-level security, in the same words for every table with a tenant: a tenant's own rows once app.tenant_id is set
-- in the transaction and none before; services that work for all tenants, and functions that the owner defines, by name.
CREATE FUNCTION identity.current_tenant() RETURNS uuid LANGUAGE sql STABLE
  RETURN nullif(current_setting('app.tenant_id', true), '')::uuid;

CREATE PROCEDURE identity.protect(relation regclass, VARIADIC services text[] DEFAULT '{}') LANGUAGE plpgsql AS $$
DECLARE service text;
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', relation);
  EXECUTE format('CREATE POLICY tenant ON %s TO laneway_gateway USING (tenant_id = identity.current_tenant()) WITH CHECK (tenant_id = identity.current_tenant())', relation);
  EXECUTE format('CREATE POLICY owner ON %s TO laneway_owner USING (true) WITH CHECK (true)', relation);
  FOREACH service IN ARRAY services LOOP
    EXECUTE format('CREATE POLICY %I ON %s TO %I USING (true) WITH CHECK (true)', service, relation, service);
  END LOOP;
END $$;

CREATE TABLE identity.plans (
  name text PRIMARY KEY,
  tier text NOT NULL,
  requests_per_minute integer NOT NULL CHECK (requests_per_minute > 0),
  max_outstanding integer NOT NULL CHECK (max_outstanding > 0),
  run_cap_usd numeric(20, 10) NOT NULL CHECK (run_cap_usd >= 0),
  user_day_cap_usd numeric(20, 10) NOT NULL CHECK (user_day_cap_usd >= 0),
  tenant_day_cap_usd numeric(20, 10) NOT NULL CHECK (tenant_day_cap_usd >= 0),
  tenant_month_cap_usd numeric(20, 10) NOT NULL CHECK (tenant_month_cap_usd >= 0)
);

CREATE TABLE identity.tenants (
  tenant_id uuid PRIMARY KEY,
  name text NOT NULL,
  plan text NOT NULL REFERENCES identity.plans,
  created_at timestamptz NOT NULL DEFAULT now(),
  disabled_at timestamptz,
  -- NULL: what its plan allows.
  max_outstanding integer CHECK (max_outstanding > 0)
);
CALL identity.protect('identity.tenants', 'laneway_billing');

CREATE TABLE identity.users (
  tenant_id uuid NOT NULL REFERENCES identity.tenants,
  user_id text NOT NULL,
  tier text NOT NULL,
  PRIMARY KEY (tenant_id, user_id)
);
CALL identity.protect('identity.users');

CREATE TABLE identity.api_keys (
  key_id text PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES identity.tenants,
  secret_hash bytea NOT NULL,
  name text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz
);
CALL identity.protect('identity.api_keys');

GRANT SELECT, INSERT, UPDATE ON identity.tenants, identity.users, identity.api_keys TO laneway_gateway;
GRANT SELECT ON identity.plans TO laneway_gateway, laneway_billing;
GRANT SELECT ON identity.tenants TO laneway_billing;

-- The one look-up that comes before a tenant is known.
CREATE FUNCTION identity.principal(p_key_id text)
RETURNS TABLE (tenant_id uuid, secret_hash bytea, revoked boolean, plan text, tier text,
               requests_per_minute integer, max_outstanding integer, allowed_models text[], allowed_agents text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT k.tenant_id, k.secret_hash, k.revoked_at IS NOT NULL OR t.disabled_at IS NOT NULL,
         p.name, p.tier, p.requests_per_minute, coalesce(t.max_outstanding, p.max_outstanding),
         p.allowed_models, p.allowed_agents
  FROM identity.api_keys k JOIN identity.tenants t ON t.tenant_id = k.tenant_id JOIN identity.plans p ON p.name = t.plan
  WHERE k.key_id = p_key_id;
END $$;
REVOKE ALL ON FUNCTION identity.principal FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.principal TO laneway_gateway;

-- Administration works across tenants: it names the tenant itself, from a key alone.
CREATE FUNCTION identity.revoke_key(p_key_id text) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE identity.api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = p_key_id RETURNING tenant_id
$$;
REVOKE ALL ON FUNCTION identity.revoke_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.revoke_key TO laneway_gateway;
