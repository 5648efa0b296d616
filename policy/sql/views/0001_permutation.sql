-- Which slot does a training run feed at which place of an epoch, and where does a slot come up?
--
-- The order of training/order.py in SQL, tested equal: order_slots and order_places for phases without windows
-- (versions 1 and 2), order_window_slots and order_window_places for phases with windows (version 2).
-- An alternating Feistel network of eight rounds with cycle walking. One recursion is one round; a value leaves after a
-- multiple of eight rounds once it is below slots. All arithmetic stays within 64 unsigned bits.

CREATE OR REPLACE MACRO order_round_key(key, phase, epoch, round) AS
    ('0x' || substr(sha256('custody-order-1:' || key || ':' || phase || ':' || epoch), 1 + 8 * round, 8))::UBIGINT;

CREATE OR REPLACE MACRO order_bits(slots) AS  -- max(2, bit length of slots - 1)
    greatest(2, CASE WHEN slots <= 1 THEN 0 ELSE length(ltrim(bin((slots - 1)::UBIGINT), '0')) END);

CREATE OR REPLACE MACRO order_fold(product) AS xor(product, product >> 32) & 4294967295::UBIGINT;

CREATE OR REPLACE MACRO order_mix(half, round_key) AS
    (order_fold(xor(half, round_key) * 2654435761::UBIGINT) * 2246822507::UBIGINT) >> 32;

-- order_slots('<order key>', phase, epoch of the phase, slots of the phase, first place, place after the last)
CREATE OR REPLACE MACRO order_slots(key, phase, epoch, slots, first_place, end_place) AS TABLE
    WITH RECURSIVE shape AS (
        SELECT (order_bits(slots) - order_bits(slots) // 2)::UBIGINT AS right_bits,
               (1::UBIGINT << (order_bits(slots) // 2)::UBIGINT) - 1::UBIGINT AS left_mask,
               (1::UBIGINT << (order_bits(slots) - order_bits(slots) // 2)::UBIGINT) - 1::UBIGINT AS right_mask
    ),
    keys AS (SELECT i AS round, order_round_key(key, phase, epoch, i) AS round_key FROM range(8) AS r (i)),
    walk AS (
        SELECT place::BIGINT AS place, 0::BIGINT AS round,
               place::UBIGINT >> right_bits AS lhs, place::UBIGINT & right_mask AS rhs
        FROM range(first_place, end_place) AS p (place), shape
        UNION ALL
        SELECT place, walk.round + 1,
               CASE WHEN walk.round % 2 = 0 THEN xor(lhs, order_mix(rhs, round_key) & left_mask) ELSE lhs END,
               CASE WHEN walk.round % 2 = 1 THEN xor(rhs, order_mix(lhs, round_key) & right_mask) ELSE rhs END
        FROM walk, shape, keys
        WHERE keys.round = walk.round % 8
          AND (walk.round = 0 OR walk.round % 8 <> 0 OR (lhs << right_bits) + rhs >= slots::UBIGINT)
    )
    SELECT place, ((lhs << right_bits) + rhs)::BIGINT AS slot
    FROM walk, shape
    WHERE round > 0 AND round % 8 = 0 AND (lhs << right_bits) + rhs < slots::UBIGINT;

-- order_places('<order key>', phase, epochs of the phase, slots of the phase, slot): where the slot comes up
CREATE OR REPLACE MACRO order_places(key, phase, epochs, slots, slot) AS TABLE
    WITH RECURSIVE shape AS (
        SELECT (order_bits(slots) - order_bits(slots) // 2)::UBIGINT AS right_bits,
               (1::UBIGINT << (order_bits(slots) // 2)::UBIGINT) - 1::UBIGINT AS left_mask,
               (1::UBIGINT << (order_bits(slots) - order_bits(slots) // 2)::UBIGINT) - 1::UBIGINT AS right_mask
    ),
    walk AS (
        SELECT epoch::BIGINT AS epoch, 0::BIGINT AS round,
               slot::UBIGINT >> right_bits AS lhs, slot::UBIGINT & right_mask AS rhs
        FROM range(epochs) AS e (epoch), shape
        UNION ALL
        SELECT epoch, round + 1,
               CASE WHEN round % 2 = 1
                    THEN xor(lhs, order_mix(rhs, order_round_key(key, phase, epoch, 7 - round % 8)) & left_mask)
                    ELSE lhs END,
               CASE WHEN round % 2 = 0
                    THEN xor(rhs, order_mix(lhs, order_round_key(key, phase, epoch, 7 - round % 8)) & right_mask)
                    ELSE rhs END
        FROM walk, shape
        WHERE round = 0 OR round % 8 <> 0 OR (lhs << right_bits) + rhs >= slots::UBIGINT
    )
    SELECT epoch, ((lhs << right_bits) + rhs)::BIGINT AS place
    FROM walk, shape
    WHERE round > 0 AND round % 8 = 0 AND (lhs << right_bits) + rhs < slots::UBIGINT;

-- ── windows (version 2): shards are permuted, and slots mixed within windows of so many shards ─────────────────

CREATE OR REPLACE MACRO order_digest(key, phase, epoch, part) AS
    sha256('custody-order-2:' || key || ':' || phase || ':' || epoch || ':' || part);

CREATE OR REPLACE MACRO order_word(digest, i) AS ('0x' || substr(digest, 1 + 8 * i, 8))::UBIGINT;

CREATE OR REPLACE MACRO order_right_bits(n) AS (order_bits(n) - order_bits(n) // 2)::UBIGINT;

CREATE OR REPLACE MACRO order_left_mask(n) AS (1::UBIGINT << (order_bits(n) // 2)::UBIGINT) - 1::UBIGINT;

CREATE OR REPLACE MACRO order_right_mask(n) AS (1::UBIGINT << order_right_bits(n)) - 1::UBIGINT;

-- order_window_slots('<order key>', phase, epoch of the phase, slots of the phase, slots of a shard, shards of a
-- window, first place, place after the last)
CREATE OR REPLACE MACRO order_window_slots(
    key, phase, epoch, slots, shard_slots, window_shards, first_place, end_place
) AS TABLE
    WITH RECURSIVE shape AS (
        SELECT shards, shards * shard_slots - slots AS missing, shards_digest,
               order_right_bits(shards) AS right_bits, order_left_mask(shards) AS left_mask,
               order_right_mask(shards) AS right_mask
        FROM (
            SELECT ((slots + shard_slots - 1) // shard_slots)::BIGINT AS shards,
                   order_digest(key, phase, epoch, 'shards') AS shards_digest
        )
    ),
    last_shard AS (  -- backwards: where the last shard, which may be short, comes up
        SELECT 0::BIGINT AS round, (shards - 1)::UBIGINT >> right_bits AS lhs, (shards - 1)::UBIGINT & right_mask AS rhs
        FROM shape
        UNION ALL
        SELECT round + 1,
               CASE WHEN round % 2 = 1
                    THEN xor(lhs, order_mix(rhs, order_word(shards_digest, 7 - round % 8)) & left_mask) ELSE lhs END,
               CASE WHEN round % 2 = 0
                    THEN xor(rhs, order_mix(lhs, order_word(shards_digest, 7 - round % 8)) & right_mask) ELSE rhs END
        FROM last_shard, shape
        WHERE round = 0 OR round % 8 <> 0 OR (lhs << right_bits) + rhs >= shards::UBIGINT
    ),
    short AS (
        SELECT shards, missing, ((lhs << right_bits) + rhs)::BIGINT AS short_at,
               ((lhs << right_bits) + rhs)::BIGINT // window_shards AS short_win
        FROM last_shard, shape
        WHERE round > 0 AND round % 8 = 0 AND (lhs << right_bits) + rhs < shards::UBIGINT
    ),
    windowed AS (
        SELECT p::BIGINT AS place,
               (p + CASE WHEN p >= (short_win + 1) * window_shards * shard_slots - missing THEN missing ELSE 0 END)
                   // (window_shards * shard_slots) AS win
        FROM range(first_place, end_place) AS r (p), short
    ),
    sized AS (
        SELECT place, win,
               (place - win * window_shards * shard_slots + CASE WHEN win > short_win THEN missing ELSE 0 END)::UBIGINT
                   AS spot,
               (least(window_shards, shards - win * window_shards) * shard_slots
                   - CASE WHEN win = short_win THEN missing ELSE 0 END)::BIGINT AS size
        FROM windowed, short
    ),
    keyed AS (
        SELECT win, size, order_digest(key, phase, epoch, win) AS digest, order_right_bits(size) AS right_bits,
               order_left_mask(size) AS left_mask, order_right_mask(size) AS right_mask
        FROM (SELECT DISTINCT win, size FROM sized)
    ),
    mixing AS (
        SELECT place, win, 0::BIGINT AS round, spot >> right_bits AS lhs, spot & right_mask AS rhs
        FROM sized JOIN keyed USING (win, size)
        UNION ALL
        SELECT place, win, round + 1,
               CASE WHEN round % 2 = 0
                    THEN xor(lhs, order_mix(rhs, order_word(digest, round % 8)) & left_mask) ELSE lhs END,
               CASE WHEN round % 2 = 1
                    THEN xor(rhs, order_mix(lhs, order_word(digest, round % 8)) & right_mask) ELSE rhs END
        FROM mixing JOIN keyed USING (win)
        WHERE round = 0 OR round % 8 <> 0 OR (lhs << right_bits) + rhs >= size::UBIGINT
    ),
    mixed AS (
        SELECT place, win, ((lhs << right_bits) + rhs)::BIGINT AS spot
        FROM mixing JOIN keyed USING (win)
        WHERE round > 0 AND round % 8 = 0 AND (lhs << right_bits) + rhs < size::UBIGINT
    ),
    stepped AS (  -- behind the short shard its missing slots are stepped over
        SELECT place, win,
               spot + CASE WHEN win = short_win
                            AND spot >= (short_at - win * window_shards + 1) * shard_slots - missing
                           THEN missing ELSE 0 END AS spot
        FROM mixed, short
    ),
    shuffling AS (
        SELECT place, spot % shard_slots AS rest, 0::BIGINT AS round,
               (win * window_shards + spot // shard_slots)::UBIGINT >> right_bits AS lhs,
               (win * window_shards + spot // shard_slots)::UBIGINT & right_mask AS rhs
        FROM stepped, shape
        UNION ALL
        SELECT place, rest, round + 1,
               CASE WHEN round % 2 = 0
                    THEN xor(lhs, order_mix(rhs, order_word(shards_digest, round % 8)) & left_mask) ELSE lhs END,
               CASE WHEN round % 2 = 1
                    THEN xor(rhs, order_mix(lhs, order_word(shards_digest, round % 8)) & right_mask) ELSE rhs END
        FROM shuffling, shape
        WHERE round = 0 OR round % 8 <> 0 OR (lhs << right_bits) + rhs >= shards::UBIGINT
    )
    SELECT place, ((lhs << right_bits) + rhs)::BIGINT * shard_slots + rest AS slot
    FROM shuffling, shape
    WHERE round > 0 AND round % 8 = 0 AND (lhs << right_bits) + rhs < shards::UBIGINT;

-- order_window_places('<order key>', phase, epochs of the phase, slots of the phase, slots of a shard, shards of a
-- window, slot): where the slot comes up
CREATE OR REPLACE MACRO order_window_places(key, phase, epochs, slots, shard_slots, window_shards, slot) AS TABLE
    WITH RECURSIVE shape AS (
        SELECT shards, shards * shard_slots - slots AS missing, order_right_bits(shards) AS right_bits,
               order_left_mask(shards) AS left_mask, order_right_mask(shards) AS right_mask
        FROM (SELECT ((slots + shard_slots - 1) // shard_slots)::BIGINT AS shards)
    ),
    shuffling AS (  -- backwards, for the slot's shard and for the last one, which may be short
        SELECT epoch, shard, 0::BIGINT AS round, order_digest(key, phase, epoch, 'shards') AS digest,
               shard::UBIGINT >> right_bits AS lhs, shard::UBIGINT & right_mask AS rhs
        FROM (SELECT e::BIGINT AS epoch FROM range(epochs) AS r (e)), shape,
             (SELECT DISTINCT unnest([slot // shard_slots, (slots - 1) // shard_slots])::BIGINT AS shard)
        UNION ALL
        SELECT epoch, shard, round + 1, digest,
               CASE WHEN round % 2 = 1
                    THEN xor(lhs, order_mix(rhs, order_word(digest, 7 - round % 8)) & left_mask) ELSE lhs END,
               CASE WHEN round % 2 = 0
                    THEN xor(rhs, order_mix(lhs, order_word(digest, 7 - round % 8)) & right_mask) ELSE rhs END
        FROM shuffling, shape
        WHERE round = 0 OR round % 8 <> 0 OR (lhs << right_bits) + rhs >= shards::UBIGINT
    ),
    shuffled AS (
        SELECT epoch, shard, ((lhs << right_bits) + rhs)::BIGINT AS shard_at
        FROM shuffling, shape
        WHERE round > 0 AND round % 8 = 0 AND (lhs << right_bits) + rhs < shards::UBIGINT
    ),
    sized AS (
        SELECT own.epoch, own.shard_at // window_shards AS win, short.shard_at // window_shards AS short_win, missing,
               (own.shard_at % window_shards * shard_slots + slot % shard_slots
                   - CASE WHEN win = short_win AND own.shard_at > short.shard_at THEN missing ELSE 0 END)::UBIGINT
                   AS spot,
               (least(window_shards, shards - win * window_shards) * shard_slots
                   - CASE WHEN win = short_win THEN missing ELSE 0 END)::BIGINT AS size
        FROM shuffled AS own JOIN shuffled AS short USING (epoch), shape
        WHERE own.shard = slot // shard_slots AND short.shard = (slots - 1) // shard_slots
    ),
    keyed AS (
        SELECT *, order_digest(key, phase, epoch, win) AS digest, order_right_bits(size) AS right_bits,
               order_left_mask(size) AS left_mask, order_right_mask(size) AS right_mask
        FROM sized
    ),
    mixing AS (
        SELECT epoch, 0::BIGINT AS round, spot >> right_bits AS lhs, spot & right_mask AS rhs FROM keyed
        UNION ALL
        SELECT epoch, round + 1,
               CASE WHEN round % 2 = 1
                    THEN xor(lhs, order_mix(rhs, order_word(digest, 7 - round % 8)) & left_mask) ELSE lhs END,
               CASE WHEN round % 2 = 0
                    THEN xor(rhs, order_mix(lhs, order_word(digest, 7 - round % 8)) & right_mask) ELSE rhs END
        FROM mixing JOIN keyed USING (epoch)
        WHERE round = 0 OR round % 8 <> 0 OR (lhs << right_bits) + rhs >= size::UBIGINT
    )
    SELECT epoch,
           win * window_shards * shard_slots - CASE WHEN win > short_win THEN missing ELSE 0 END
               + ((lhs << right_bits) + rhs)::BIGINT AS place
    FROM mixing JOIN keyed USING (epoch)
    WHERE round > 0 AND round % 8 = 0 AND (lhs << right_bits) + rhs < size::UBIGINT;
