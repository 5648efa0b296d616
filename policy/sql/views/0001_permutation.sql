-- Which slot does a training run feed at which place of an epoch, and where does a slot come up?
--
-- The order of training/order.py (version 1) in SQL, tested equal: an alternating Feistel network of eight rounds with
-- cycle walking. One recursion is one round; a value leaves after a multiple of eight rounds once it is below slots.
-- All arithmetic stays within 64 unsigned bits.

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
