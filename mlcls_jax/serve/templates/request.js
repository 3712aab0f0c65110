"use strict";
const byId = (id) => document.getElementById(id);

function make(tag, name, parent, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

let token = sessionStorage.getItem("token") || "";

// Asks for the token if the server wants one.
async function send(path, options) {
  for (;;) {
    const headers = token ? {Authorization: `Bearer ${token}`} : {}, sent = token;
    const answer = await fetch(path, {...options, headers}).catch(() => null);
    if (!answer || answer.status !== 401) return answer;
    if (token !== sent) continue;
    const given = (prompt("The token of this server:") || "").trim();
    if (!given) return answer;
    token = given;
    sessionStorage.setItem("token", token);
  }
}
