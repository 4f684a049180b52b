"""The history of ESPF's tables, one step per release that changed them, for alembic to walk.

Tables only: triggers are compiled from rules and replaced, never migrated. A step never looks at
``espf.db.tables``, which is how the tables are today; it says itself what it makes.
"""
