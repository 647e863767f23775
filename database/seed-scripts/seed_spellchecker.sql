-- Seed the spell checks of the essays: the same essays, word counts and numbers of corrections as in
-- huleedu_story.py, whose identifiers these are.

INSERT INTO spellcheck_jobs
    (id, essay_id, batch_id, language, status, words, requested_at, completed_at)
SELECT
    ('50e11000-7e57-4000-8000-' || lpad(essay::text, 12, '0'))::uuid,
    ('e55a4000-7e57-4000-8000-' || lpad(essay::text, 12, '0'))::uuid,
    'ba7c4000-7e57-4000-8000-000000000001',
    'en',
    'completed',
    words,
    '2026-11-16 12:40:00+00',
    '2026-11-16 12:52:10+00'
FROM (
    VALUES
        (1, 742), (2, 655), (3, 811), (4, 603), (5, 721), (6, 548),
        (7, 684), (8, 402), (9, 617), (10, 698), (11, 735), (12, 571)
) AS story (essay, words)
ON CONFLICT DO NOTHING;

INSERT INTO corrections (job_id, position, original, replacement, source)
SELECT
    ('50e11000-7e57-4000-8000-' || lpad(essay::text, 12, '0'))::uuid,
    position,
    original,
    replacement,
    source::correction_source
FROM (
    VALUES
        (1, 214, 'allways', 'always', 'learner_errors'),
        (1, 507, 'asignment', 'assignment', 'dictionary'),
        (2, 38, 'becouse', 'because', 'learner_errors'),
        (2, 291, 'diffrent', 'different', 'learner_errors'),
        (2, 530, 'knowlege', 'knowledge', 'dictionary'),
        (3, 622, 'definately', 'definitely', 'learner_errors'),
        (4, 17, 'wich', 'which', 'learner_errors'),
        (4, 155, 'becouse', 'because', 'learner_errors'),
        (4, 340, 'tommorow', 'tomorrow', 'dictionary'),
        (4, 561, 'untill', 'until', 'learner_errors'),
        (5, 96, 'enviroment', 'environment', 'learner_errors'),
        (5, 433, 'succesful', 'successful', 'dictionary'),
        (6, 12, 'beleive', 'believe', 'learner_errors'),
        (6, 88, 'peoples', 'people', 'learner_errors'),
        (6, 203, 'wich', 'which', 'learner_errors'),
        (6, 377, 'allways', 'always', 'learner_errors'),
        (6, 490, 'familly', 'family', 'dictionary'),
        (7, 260, 'responsability', 'responsibility', 'learner_errors'),
        (7, 598, 'intresting', 'interesting', 'learner_errors'),
        (8, 9, 'beleive', 'believe', 'learner_errors'),
        (8, 54, 'becouse', 'because', 'learner_errors'),
        (8, 131, 'thougt', 'thought', 'learner_errors'),
        (8, 198, 'scool', 'school', 'dictionary'),
        (8, 287, 'wich', 'which', 'learner_errors'),
        (8, 366, 'recieve', 'receive', 'learner_errors'),
        (9, 71, 'seperate', 'separate', 'learner_errors'),
        (9, 312, 'goverment', 'government', 'learner_errors'),
        (9, 588, 'stressfull', 'stressful', 'dictionary'),
        (10, 149, 'diffrent', 'different', 'learner_errors'),
        (10, 402, 'arguement', 'argument', 'dictionary'),
        (11, 350, 'untill', 'until', 'learner_errors'),
        (12, 45, 'peoples', 'people', 'learner_errors'),
        (12, 167, 'intresting', 'interesting', 'learner_errors'),
        (12, 248, 'allways', 'always', 'learner_errors'),
        (12, 391, 'oppinion', 'opinion', 'dictionary'),
        (12, 540, 'recieve', 'receive', 'learner_errors')
) AS story (essay, position, original, replacement, source)
ON CONFLICT DO NOTHING;

INSERT INTO allowed_words (batch_id, word, added_by, added_at)
VALUES
    (
        'ba7c4000-7e57-4000-8000-000000000001',
        'Fjällängen',
        '7eac4000-7e57-4000-8000-000000000001',
        '2026-11-16 08:05:00+00'
    ),
    (
        'ba7c4000-7e57-4000-8000-000000000001',
        'Skolverket',
        '7eac4000-7e57-4000-8000-000000000001',
        '2026-11-16 08:05:00+00'
    )
ON CONFLICT DO NOTHING;
