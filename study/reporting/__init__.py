"""How that is shown: tables, charts, documents."""
