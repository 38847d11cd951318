SET ROLE laneway_owner;

-- What is to be known of an answer: whether the output is JSON that matches the schema the task asked for, and whether it
-- came from the response cache. NULL until the task has ended.
ALTER TABLE history.tasks ADD COLUMN structured boolean, ADD COLUMN cached boolean;

-- Of these models those that have no price now: no call of them could be held against a cap.
CREATE FUNCTION billing.unpriced(p_providers text[], p_models text[]) RETURNS TABLE (provider text, model text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT m.provider, m.model FROM unnest(p_providers, p_models) WITH ORDINALITY AS m (provider, model, n)
  WHERE NOT EXISTS (SELECT FROM billing.prices p
    WHERE p.provider = m.provider AND p.model = m.model AND p.superseded_at IS NULL
      AND p.valid_from <= clock_timestamp() AND (p.valid_until IS NULL OR p.valid_until > clock_timestamp()))
  ORDER BY m.n
$$;
REVOKE ALL ON FUNCTION billing.unpriced FROM PUBLIC;
GRANT EXECUTE ON FUNCTION billing.unpriced TO laneway_worker;

RESET ROLE;
