SET ROLE laneway_owner;

-- What is to be known of an answer: whether the output is JSON that matches the schema the task asked for, and whether it
-- came from the response cache. NULL until the task has ended.
ALTER TABLE history.tasks ADD COLUMN structured boolean, ADD COLUMN cached boolean;

RESET ROLE;
