# Heroku sources this when a dyno starts: https://devcenter.heroku.com/articles/dyno-startup-behavior
export PATH="$HOME/bin:$PATH"
