-- What is compared is in NFC (https://unicode.org/reports/tr15/). Names are few, and rewritten here; documents that were
-- stored before are read through the functions below until `python -m app.cli normalize` has rewritten a bot's.

-- Whether every document of the bot is in NFC. An older server that still runs leaves it false for the bots it makes.
ALTER TABLE bot_registry ADD COLUMN unicode_normalized boolean NOT NULL DEFAULT false;

UPDATE bot_registry SET account_name = normalize(account_name, NFC), bot_name = normalize(bot_name, NFC)
WHERE account_name IS NOT NFC NORMALIZED OR bot_name IS NOT NFC NORMALIZED;

UPDATE api_keys SET account_name = normalize(account_name, NFC) WHERE account_name IS NOT NFC NORMALIZED;

-- A key that both forms of the account have used stays with each.
UPDATE idempotency_keys k SET account_name = normalize(account_name, NFC)
WHERE account_name IS NOT NFC NORMALIZED
  AND NOT EXISTS (SELECT FROM idempotency_keys o
                  WHERE o.key = k.key AND o.account_name <> k.account_name
                    AND normalize(o.account_name, NFC) = normalize(k.account_name, NFC));

CREATE FUNCTION nfc_array(value text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE
        WHEN array_to_string(value, E'\n') IS NFC NORMALIZED THEN value
        ELSE ARRAY(SELECT normalize(u.item, NFC) FROM unnest(value) WITH ORDINALITY AS u (item, place) ORDER BY u.place)
    END;

-- Of two keys that become one, one stays. A mark of its own string must not join the last letter of an escape such as
-- \n before it: a control character, which stands in no jsonb's text, keeps the two apart.
CREATE FUNCTION nfc_jsonb(value jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE
        WHEN value::text IS NFC NORMALIZED THEN value
        ELSE replace(normalize(regexp_replace(value::text, '\\(u[0-9a-f]{4}|.)', E'\\&\x01', 'g'), NFC),
                     E'\x01', '')::jsonb
    END;
