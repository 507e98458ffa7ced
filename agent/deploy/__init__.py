"""The line of a deploy: observe, plan, seal, switch, apply, judge, commit, roll back, recover."""
