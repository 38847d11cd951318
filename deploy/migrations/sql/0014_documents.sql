SET ROLE laneway_owner;

-- How far a run says that it is, {message, percentage, at}: the newest.
ALTER TABLE runtime.runs ADD COLUMN progress jsonb;

CREATE FUNCTION runtime.report_progress(p_task uuid, p_fence integer, p_progress jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE runtime.runs r SET progress = p_progress
  WHERE r.task_id = p_task AND r.fence = p_fence AND r.status = 'running'
$$;

-- What a tenant gives to a conversation for its tasks to search: whether or not a task of it is recorded yet.
CREATE TABLE runtime.documents (
  document_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  name text NOT NULL,
  -- The name of a text search configuration. Not `regconfig`: a table with one cannot be upgraded by pg_upgrade.
  language text NOT NULL,
  characters integer NOT NULL,
  passages integer NOT NULL,
  -- Of what was uploaded: the same again is the same document.
  digest bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX documents_of_conversation ON runtime.documents (tenant_id, conversation_id, created_at, document_id)
  INCLUDE (characters);
CALL identity.protect('runtime.documents');

-- A document is its passages, one after the other. There is no index on the words: a search is of one conversation, whose
-- documents are few, and an index over all tenants' words would be read for nothing.
CREATE TABLE runtime.passages (
  document_id uuid NOT NULL REFERENCES runtime.documents ON DELETE CASCADE,
  number integer NOT NULL,
  tenant_id uuid NOT NULL,
  text text NOT NULL,
  words tsvector NOT NULL,
  PRIMARY KEY (document_id, number)
);
CALL identity.protect('runtime.passages');
GRANT SELECT, DELETE ON runtime.documents TO laneway_gateway;
GRANT SELECT ON runtime.passages TO laneway_gateway;

-- verdict: 'added' | 'same' (it is there already) | 'other' (another one has this id) | 'conversation_full' | 'tenant_full'.
-- A tenant's documents are counted by one at a time.
CREATE FUNCTION runtime.add_document(p_document uuid, p_tenant uuid, p_conversation uuid, p_name text, p_language text,
  p_digest bytea, p_passages text[], p_most_documents integer, p_most_characters bigint, p_most_of_tenant bigint)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE same boolean; size bigint; documents bigint; characters bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(7316006, hashtext(p_tenant::text));
  SELECT d.digest = p_digest INTO same FROM runtime.documents d WHERE d.document_id = p_document;
  IF FOUND THEN RETURN CASE WHEN same THEN 'same' ELSE 'other' END; END IF;
  SELECT sum(length(t)) INTO size FROM unnest(p_passages) t;
  SELECT count(*), coalesce(sum(d.characters), 0) INTO documents, characters FROM runtime.documents d
  WHERE d.tenant_id = p_tenant AND d.conversation_id = p_conversation;
  IF documents >= p_most_documents OR characters + size > p_most_characters THEN RETURN 'conversation_full'; END IF;
  SELECT coalesce(sum(d.characters), 0) INTO characters FROM runtime.documents d WHERE d.tenant_id = p_tenant;
  IF characters + size > p_most_of_tenant THEN RETURN 'tenant_full'; END IF;
  INSERT INTO runtime.documents (document_id, tenant_id, conversation_id, name, language, characters, passages, digest)
  VALUES (p_document, p_tenant, p_conversation, p_name, p_language, size, cardinality(p_passages), p_digest);
  INSERT INTO runtime.passages (document_id, number, tenant_id, text, words)
  SELECT p_document, t.number, p_tenant, t.text, to_tsvector(p_language::regconfig, t.text)
  FROM unnest(p_passages) WITH ORDINALITY AS t (text, number);
  RETURN 'added';
END $$;

-- The passages of a run's conversation that have some of these words: first those that have them all, then by how often
-- and how close to each other they have them.
CREATE FUNCTION runtime.search_documents(p_task uuid, p_query text, p_limit integer)
RETURNS TABLE (document text, number integer, passages integer, text text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT d.name, p.number, d.passages, p.text
  FROM (
    SELECT o.document_id, o.name, o.passages, o.created_at, q.every,
           replace(q.every::text, ' & ', ' | ')::tsquery AS some
    FROM runtime.turns t
    JOIN runtime.documents o ON o.tenant_id = t.tenant_id AND o.conversation_id = t.conversation_id
    CROSS JOIN LATERAL (SELECT plainto_tsquery(o.language::regconfig, p_query) AS every OFFSET 0) q
    WHERE t.task_id = p_task OFFSET 0) d
  JOIN runtime.passages p ON p.document_id = d.document_id
  WHERE p.words @@ d.some
  ORDER BY p.words @@ d.every DESC, ts_rank(p.words, d.some, 1) DESC, d.created_at, d.document_id, p.number
  LIMIT p_limit
$$;

CREATE FUNCTION runtime.documents_of_run(p_task uuid) RETURNS TABLE (name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT d.name FROM runtime.turns t
  JOIN runtime.documents d ON d.tenant_id = t.tenant_id AND d.conversation_id = t.conversation_id
  WHERE t.task_id = p_task ORDER BY d.created_at, d.document_id
$$;

REVOKE ALL ON FUNCTION runtime.report_progress, runtime.add_document, runtime.search_documents, runtime.documents_of_run
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION runtime.report_progress, runtime.search_documents, runtime.documents_of_run TO laneway_worker;
GRANT EXECUTE ON FUNCTION runtime.add_document TO laneway_gateway;

RESET ROLE;
