-- Overlaps of several columns at once are told by an index of this extension, which comes with PostgreSQL.
CREATE EXTENSION IF NOT EXISTS btree_gist;

SET ROLE laneway_owner;

-- Bitemporal: `valid_from` to `valid_until` is when a price applies, `recorded_at` to `superseded_at` when the book said so.
-- NULL is without end. What the book says now is not superseded; what it said at any time is all still there, because a
-- version never changes but to be superseded, once. Versions of a model never overlap.
ALTER TABLE billing.prices
  DROP CONSTRAINT prices_provider_model_valid_from_key,
  ADD COLUMN valid_until timestamptz CHECK (valid_until > valid_from),
  ADD COLUMN superseded_at timestamptz CHECK (superseded_at >= recorded_at),
  -- The reviewed difference it came with; NULL: it was seeded.
  ADD COLUMN digest text,
  ADD CHECK (isfinite(valid_from) AND isfinite(valid_until)),
  -- NaN is above everything to PostgreSQL.
  ADD CHECK (greatest(input_mtok, cache_read_mtok, cache_write_5m_mtok, cache_write_1h_mtok, output_mtok) < 'NaN'),
  ADD CONSTRAINT versions_do_not_overlap EXCLUDE USING gist (provider WITH =, model WITH =,
    tstzrange(valid_from, valid_until) WITH &&, tstzrange(recorded_at, superseded_at) WITH &&);
CREATE INDEX prices_in_force ON billing.prices (provider, model, valid_from) WHERE superseded_at IS NULL;

CREATE FUNCTION billing.refuse_other_price() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.superseded_at IS NOT NULL OR NEW.superseded_at IS NULL
     -- What is generated is not there yet.
     OR to_jsonb(OLD) - '{superseded_at,input_ceiling_mtok}'::text[]
        IS DISTINCT FROM to_jsonb(NEW) - '{superseded_at,input_ceiling_mtok}'::text[] THEN
    RAISE EXCEPTION 'price version % cannot change: supersede it, once, and record another', OLD.price_id
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER superseded_only BEFORE UPDATE ON billing.prices FOR EACH ROW EXECUTE FUNCTION billing.refuse_other_price();
ALTER TABLE billing.prices ENABLE ALWAYS TRIGGER superseded_only;

-- Which reviewed differences were applied, by whom, and why.
CREATE TABLE billing.price_changes (
  change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  digest text NOT NULL,
  applied_at timestamptz NOT NULL,
  applied_by text NOT NULL CHECK (applied_by <> ''),
  reason text NOT NULL CHECK (reason <> ''),
  changes jsonb NOT NULL
);

GRANT UPDATE (superseded_at) ON billing.prices TO laneway_billing;
GRANT SELECT, INSERT ON billing.price_changes TO laneway_billing;
RESET ROLE;
