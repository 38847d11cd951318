SET ROLE laneway_owner;

-- How a run came by the model that answered: what the rules of `auto` picked, {model, reason}, and each move to a
-- fallback, [{step, from_model, to_model, reason}]. NULL until the task has ended.
ALTER TABLE history.tasks ADD COLUMN routing jsonb, ADD COLUMN fallbacks jsonb;

RESET ROLE;
