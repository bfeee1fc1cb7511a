"""How well a policy flies: verdict, evaluation, the judges of others."""
